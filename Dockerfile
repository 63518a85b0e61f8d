# An image for executors (and, in cluster deploy mode, the driver) of Spark on Kubernetes:
#   docker build --build-arg SPARK_IMAGE=IMAGE --tag REGISTRY/ddq .
# IMAGE: one of Spark's own with Python, of the release that submits; in client mode its Python has
# the minor version of the driver's.  See docs/cluster.md.
ARG SPARK_IMAGE
FROM ${SPARK_IMAGE}

USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

# The packages first: they change less often than the code.  constraints.txt pins what was tested;
# pyspark is the image's own.
WORKDIR /opt/ddq
RUN python3 -m venv /opt/ddq/python
ENV PATH=/opt/ddq/python/bin:$PATH \
    PYSPARK_PYTHON=/opt/ddq/python/bin/python \
    PYSPARK_DRIVER_PYTHON=/opt/ddq/python/bin/python
COPY constraints.txt pyproject.toml setup.py README.md LICENSE NOTICE ./
RUN sed -n '/^dependencies = \[/,/^\]/s/^ *"\([^"]*\)".*/\1/p' pyproject.toml | grep -v '^pyspark' > needs.txt \
    && pip install --no-cache-dir --constraint constraints.txt --requirement needs.txt

COPY ddq.py replay.py ./
COPY barista barista
COPY caffe caffe
COPY param-server param-server
COPY models models
RUN pip install --no-cache-dir --no-deps .

# The user of the Spark image; logs and runs go to a volume that is mounted here.
RUN mkdir /data && chown 185 /data
ENV DDQ_ROOT=/data
USER 185
