# The example shop: one image for web, worker, beat, Flower and the migrations. docker-compose.yml says how.
FROM python:3.13-slim-bookworm

# Flower is for looking at the example; the package itself does not depend on it.
ARG FLOWER_VERSION=2.2.0

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore \
    SHOP_DIRECTORY=/var/lib/shop

# A named volume that is mounted on the folder takes over its owner.
RUN useradd --create-home --uid 10001 shop && install -d -o shop -g shop /var/lib/shop

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY celery_idempotent celery_idempotent
RUN pip install -c constraints.txt ".[redis]" "psycopg[binary]" "flower==${FLOWER_VERSION}"
COPY example_proj example_proj

USER shop
WORKDIR /app/example_proj
