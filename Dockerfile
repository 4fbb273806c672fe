# Two images of the light installation, which runs exported models and needs no PyTorch:
#   docker build --target cpu -t ssd-deploy:cpu .
#   docker build --target gpu -t ssd-deploy:gpu .

FROM python:3.11-slim-bookworm AS installed
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/ssd-deploy
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY ssd_train ssd_train
COPY export export
COPY ssd_deploy ssd_deploy
RUN /opt/ssd-deploy/bin/pip install '.[openvino]'

# CUDA and cuDNN from their Python packages, and TensorRT; the driver is the machine's.
FROM installed AS installed-gpu
RUN /opt/ssd-deploy/bin/pip install '.[tensorrt]' 'onnxruntime-gpu[cuda,cudnn]'

FROM python:3.11-slim-bookworm AS runtime
ENV PATH=/opt/ssd-deploy/bin:$PATH OMP_WAIT_POLICY=PASSIVE
RUN useradd --create-home --uid 1000 detector
# detector, by the number, which a host can check without asking the image.
USER 1000
# Where models and pictures are mounted.
WORKDIR /data
ENTRYPOINT ["ssd-deploy"]
CMD ["--help"]

FROM runtime AS gpu
# What NVIDIA's container toolkit brings in: computing, and nvidia-smi.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=installed-gpu /opt/ssd-deploy /opt/ssd-deploy

# The last one is what is built where no target is named.
FROM runtime AS cpu
COPY --from=installed /opt/ssd-deploy /opt/ssd-deploy
