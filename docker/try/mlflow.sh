#!/bin/sh
# In the MLflow image: the server starts from its secrets and asks for a login.
set -eu
export HOME=/tmp SECRETS=/tmp/secrets MLFLOW_ARTIFACTS=/tmp/artifacts MLFLOW_WORKERS=1
test "$(id -u)" = 50001
mkdir -p "$SECRETS"
echo sqlite:////tmp/mlflow.db > "$SECRETS/mlflow_database_url"
echo sqlite:////tmp/auth.db > "$SECRETS/mlflow_auth_database_url"
python -c "import secrets; print(secrets.token_hex(32))" | tee "$SECRETS/mlflow_secret_key" > "$SECRETS/mlflow_password"
mlflow_entrypoint.sh --allowed-hosts "127.0.0.1,127.0.0.1:5000" > /tmp/server.log 2>&1 &
server=$!
trap 'kill $server' EXIT
tries=90
until health.py http://127.0.0.1:5000/health 2> /dev/null; do
  tries=$((tries - 1))
  if [ $tries -eq 0 ] || ! kill -0 $server; then tail -n 20 /tmp/server.log >&2; exit 1; fi
  sleep 2
done
python - <<'PY'
import base64
import os
import urllib.error
import urllib.request
from pathlib import Path

URL = "http://127.0.0.1:5000/api/2.0/mlflow/experiments/get?experiment_id=0"


def status(**headers):
    try:
        return urllib.request.urlopen(urllib.request.Request(URL, headers=headers), timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code


password = Path(os.environ["SECRETS"], "mlflow_password").read_text().strip()
login = "Basic " + base64.b64encode(f"atspeed:{password}".encode()).decode()
answers = status(), status(Authorization=login), status(Authorization=login, Host="elsewhere")
assert answers == (401, 200, 403), answers
print("MLflow: 401 without a login, 200 with it, 403 for another host name")
PY
