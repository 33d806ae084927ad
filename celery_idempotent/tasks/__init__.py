"""The Celery base classes, and what a worker has to do for them."""
