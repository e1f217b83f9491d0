"""How findings are drawn: figures in the colours of the page, and the numbers on them."""
