"""Parts that methods are composed of, by slot."""
