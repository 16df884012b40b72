"""A cluster of real Ray nodes on one machine, each with namespaces of its own, to be broken on purpose."""
