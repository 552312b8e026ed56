"""The defended network, and the attacks by name and by what an attacker knows."""
