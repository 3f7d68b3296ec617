"""How hard MiniPerson is."""
