"""How far a registration can be trusted, place by place: quantities of the pair, and the bound of the error by them."""
