"""Who answers. A teacher is a function from questions to responses, one by one, in whatever order they come."""
