"""Many runs from one command: grids of settings, and searches among them. Imports nothing heavy until jobs run."""
