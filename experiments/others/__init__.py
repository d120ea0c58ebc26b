"""Networks in the idioms of other frameworks, as their users write them."""
