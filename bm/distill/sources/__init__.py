"""Where questions come from. A source turns a domain's name, a seed and its parameters into a stream of them."""
