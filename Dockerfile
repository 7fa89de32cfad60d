# The server on a CPU, as a user without rights. It is not built where this repository is tested.
#
#     docker build -t softprompt --build-arg PIP_EXTRA_INDEX_URL=INDEX .
#     KEY=$(openssl rand -hex 24); echo "$KEY"
#     docker run --stop-timeout 40 -p 127.0.0.1:8000:8000 -v "$PWD/runs:/prompts:ro" -v models:/models \
#         -e SOFTPROMPT_API_KEYS="$KEY" softprompt google-t5/t5-base
#
# INDEX is the address of torch's wheels for CPUs (https://pytorch.org/get-started). Without it the image holds CUDA too
# and is several times as large. A model in a folder is mounted and named by its path. After the signal to stop, requests
# that were taken have 30 seconds (--drain), which is longer than Docker waits of itself.
FROM python:3.11-slim

# The model's cache is a volume, which is the user's only if its folder is.
RUN useradd --create-home --uid 10001 softprompt && install -d -o softprompt -g softprompt /models /prompts
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY softprompt ./softprompt
ARG PIP_EXTRA_INDEX_URL=
RUN pip install --no-cache-dir -c constraints.txt ".[serve]"

USER softprompt
ENV HF_HOME=/models PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --start-period=120s --timeout=5s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=3)"]
# Inside a container every address is open, so the server asks for SOFTPROMPT_API_KEYS.
ENTRYPOINT ["softprompt", "serve", "--prompts", "/prompts", "--host", "0.0.0.0"]
