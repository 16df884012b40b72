"""The HTTP front: server, middleware, routes, answers."""
