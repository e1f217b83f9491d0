"""Where questions come from. A source is a function from a domain's name and its parameters to a stream of questions."""
