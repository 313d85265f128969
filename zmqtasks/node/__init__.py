"""One process of the mesh: the loop that carries out what the machines decide."""
