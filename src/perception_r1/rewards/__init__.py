"""Components, matchers and how they combine."""
