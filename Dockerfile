# The package with its GPU libraries, for Docker, Podman or Apptainer. NOT YET BUILT here: only its parts are tested.
#   docker build -t diffreid .
#   docker run --rm --gpus all --shm-size 8g -v /data:/data:ro -v "$PWD/runs:/work/runs" diffreid fit \
#     --config recipes/bot_market1501 --data.train /data/market1501
FROM python:3.12-slim
COPY setup.cfg pyproject.toml README.md LICENSE /src/
COPY diffreid_lightning /src/diffreid_lightning
COPY configs /src/configs
# Wheels of torch from PyPI hold the CUDA libraries; the driver is the machine's.
RUN pip install --no-cache-dir "/src[imagenet,slurm]" && rm -rf /src
WORKDIR /work
ENV WANDB_MODE=offline HF_HOME=/work/runs/huggingface
ENTRYPOINT ["python", "-m", "diffreid_lightning"]
CMD ["doctor"]
