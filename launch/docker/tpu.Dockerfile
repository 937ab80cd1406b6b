# SPDX-License-Identifier: Apache-2.0
# For the hosts of TPU VMs and of GKE's TPU nodes. In the clone's root:
#   docker build -f launch/docker/tpu.Dockerfile -t srl_jax:tpu .
#   docker run --privileged --network=host srl_jax:tpu train --config=registers \
#     --workdir=gs://BUCKET/RUN --multi_host
FROM python:3.12-slim-bookworm
RUN apt-get update \
  && apt-get install -y --no-install-recommends bubblewrap git \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /srl_jax
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[tpu,gcs,report,serve]'
WORKDIR /work
ENTRYPOINT ["srl_jax"]
