# The server on a CPU, as a user without rights. Not built where this repository is tested.
#
#     docker build -t softprompt .
#     docker run -p 127.0.0.1:8000:8000 -v "$PWD/runs:/prompts:ro" -v "$HOME/.cache/huggingface:/models" \
#         -e SOFTPROMPT_API_KEYS="$(openssl rand -hex 24)" softprompt google-t5/t5-base
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 softprompt
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY softprompt ./softprompt
# An index of torch without CUDA, given as a build argument, makes the image a tenth of the size.
ARG PIP_EXTRA_INDEX_URL=
RUN pip install --no-cache-dir -c constraints.txt ".[serve]"

USER softprompt
ENV HF_HOME=/models PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/ready', timeout=3)"]
# Inside a container every address is open, so the server asks for SOFTPROMPT_API_KEYS.
ENTRYPOINT ["softprompt", "serve", "--prompts", "/prompts", "--host", "0.0.0.0"]
