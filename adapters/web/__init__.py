"""The desk: pages and the interface for programs, on FastAPI. It knows the ports of the pipeline and no other outside party."""
