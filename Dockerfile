# One file for a CPU and a CUDA image: TORCH_INDEX is the URL of the package index that torch comes
# from, as PyTorch's own install page names them for each kind. Empty: pip's default, with CUDA.
FROM python:3.11-slim AS build
ARG TORCH_INDEX=""
WORKDIR /src
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
# Dependencies first: they change less often than the code, and take the minutes.
COPY pyproject.toml ./
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /tmp/requirements.txt \
 && pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r /tmp/requirements.txt
COPY README.md LICENSE ./
COPY app app
COPY training training
RUN pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 NOISEWELL_DATA_DIR=/data
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin noisewell \
 && mkdir /data && chown noisewell:noisewell /data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# A first start registers the bundled generator and checks every batch size before it is ready.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"NOISEWELL_PORT\", 8000)}/health/ready', timeout=2)"]
ENTRYPOINT ["noisewell"]
CMD ["serve", "--host", "0.0.0.0"]
