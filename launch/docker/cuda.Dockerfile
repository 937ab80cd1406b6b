# SPDX-License-Identifier: Apache-2.0
# For NVIDIA GPUs; pip brings CUDA, so the host needs the driver alone, and
# NVIDIA's container toolkit. In the clone's root:
#   docker build -f launch/docker/cuda.Dockerfile -t srl_jax:cuda .
#   docker run --gpus=all -v "$PWD/runs:/work/runs" srl_jax:cuda train \
#     --config=registers
FROM python:3.12-slim-bookworm
RUN apt-get update \
  && apt-get install -y --no-install-recommends bubblewrap git \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /srl_jax
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[gpu,gcs,report,serve]'
WORKDIR /work
ENTRYPOINT ["srl_jax"]
