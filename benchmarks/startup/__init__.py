"""How long imports and the first answer take."""
