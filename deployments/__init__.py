"""The service on Ray Serve: ingress, engine replicas, HTTP, the playground, batches and the command line."""

IMPORT_PATH, UI_IMPORT_PATH = "deployments.app:build_app", "deployments.ui.app:build_ui"
"""What a Serve configuration names."""
INGRESS_DEPLOYMENT, ENGINE_DEPLOYMENT = "Ingress", "EngineReplica"
