"""How far apart two right answers may lie."""
