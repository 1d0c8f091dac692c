# shellcheck shell=sh
# A login shell, which KubeRay's operator can be told to use, sets PATH anew.
export PATH="/opt/ganscale/venv/bin:$PATH"
