#!/usr/bin/env bash
# Langevin beside PyTorch on the same networks, batches and work, as a Markdown table. See --help.
set -euo pipefail
export LC_ALL=C

usage() {
    cat <<'TEXT'
Times `langevin bench` and scripts/peers/torch_unet.py in turn and prints a Markdown table of time and memory.

usage: scripts/bench_vs_pytorch.sh [options]

  --runs N        timed runs of a program each time it is started [default: 5]
  --rounds N      times that each program is started for each case, in turn [default: 3]
  --net NAMES     mnist, cifar, or both with a comma [default: mnist,cifar]
  --case NAMES    forward, train, energy-score, energy-train, or several [default: all four]
  --device NAME   cpu or cuda [default: cpu]
  --out FILE      write the table there too
  --help          this text

A time is the median over the rounds of each program's median; memory is the largest peak: of the whole process on the
CPU, of PyTorch's allocations on a GPU (where Langevin does not know its own). On a GPU TF32 is off for both.

  LANGEVIN=FILE      a built program to time [default: cargo build --release -p langevin-cli]
  PEER_PYTHON=FILE   a Python with torch and diffusers [default: one made in target/peer-venv, a download of some GB]

Let nothing else run meanwhile. The table goes to stdout, progress to stderr.
TEXT
}

say() { echo "$*" >&2; }
die() { say "bench_vs_pytorch: $*"; exit 1; }
wrong() { say "bench_vs_pytorch: $*; see --help"; exit 2; }

# --- what was asked

runs=5 rounds=3 nets=mnist,cifar cases=forward,train,energy-score,energy-train device=cpu out=
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}"; continue ;;
        --runs | --rounds | --net | --case | --device | --out) [ $# -ge 2 ] || wrong "$1 needs a value" ;;
        *) wrong "unknown argument $1" ;;
    esac
    case $1 in
        --runs) runs=$2 ;;
        --rounds) rounds=$2 ;;
        --net) nets=$2 ;;
        --case) cases=$2 ;;
        --device) device=$2 ;;
        --out) out=$2 ;;
    esac
    shift 2
done
number() { [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || wrong "$1 $2: give a whole number of at least 1"; }
number --runs "$runs"
number --rounds "$rounds"
known() { # OPTION VALUES NAME...: every one of VALUES must be a NAME
    local option=$1 values=$2 value
    shift 2
    [[ $values =~ ^[a-z-]+(,[a-z-]+)*$ ]] || wrong "$option $values: give one of: $*"
    for value in ${values//,/ }; do
        [[ " $* " == *" $value "* ]] || wrong "$option $value: give one of: $*"
    done
}
known --net "$nets" mnist cifar
known --case "$cases" forward train energy-score energy-train
known --device "$device" cpu cuda
[[ $device != *,* ]] || wrong "--device $device: give one"
if [ -n "$out" ]; then
    { : >>"$out"; } 2>/dev/null || die "cannot write --out $out"
    out=$(cd "$(dirname "$out")" && pwd)/$(basename "$out")
fi

program() { # NAME VALUE: the absolute path of a program given as a path or by its name on the path
    local found
    found=$(command -v -- "$2") || die "$1=$2: there is no such program"
    echo "$(cd "$(dirname "$found")" && pwd)/$(basename "$found")"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
peer=$root/scripts/peers/torch_unet.py
langevin=${LANGEVIN:-}
python=${PEER_PYTHON:-}
[ -z "$langevin" ] || langevin=$(program LANGEVIN "$langevin")
[ -z "$python" ] || python=$(program PEER_PYTHON "$python")
cd "$root"
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# --- the two programs

pins=(torch==2.13.0 diffusers==0.42.1 numpy)
if [ -z "$python" ]; then
    venv=$target/peer-venv
    python=$venv/bin/python
    if [ "$(cat "$venv/complete" 2>/dev/null)" != "${pins[*]}" ]; then
        base=$(command -v python3) || die "there is no python3; install it, or set PEER_PYTHON to a Python with torch and diffusers"
        "$base" -c 'import ensurepip, venv' 2>/dev/null ||
            die "$base has no venv module; install it (python3-venv on Debian and Ubuntu), or set PEER_PYTHON"
        say "making a Python environment in $venv: ${pins[*]}"
        "$base" -m venv --clear "$venv" >&2 || die "could not make a Python environment in $venv"
        "$python" -m pip install --quiet --disable-pip-version-check "${pins[@]}" >&2 ||
            die "pip could not install ${pins[*]} (the reason is above: no network, a full disk, or a Python that is too old or too new); or set PEER_PYTHON"
        echo "${pins[*]}" >"$venv/complete"
    fi
fi
versions=$("$python" -c 'import torch, diffusers; print("torch", torch.__version__ + ", diffusers", diffusers.__version__)' 2>"$scratch/said") ||
    die "$python cannot import torch and diffusers: $(tail -n 1 "$scratch/said")"
if [ "$device" = cuda ]; then
    gpu=$("$python" -c 'import torch; print(torch.cuda.get_device_name())' 2>"$scratch/said") ||
        die "PyTorch finds no GPU: $(tail -n 1 "$scratch/said")"
fi

if [ -z "$langevin" ]; then
    command -v cargo >/dev/null || die "there is no cargo; install Rust, or set LANGEVIN to a built program"
    features=()
    [ "$device" = cpu ] || features=(--features "cuda,cudnn")
    say "building langevin"
    CARGO_TARGET_DIR=$target cargo build --release -p langevin-cli ${features[@]+"${features[@]}"} >&2 || die "the build failed"
    langevin=$target/release/langevin
    [ -x "$langevin" ] || die "the build left no program at $langevin"
    built=
else
    built=$("$langevin" --version 2>"$scratch/said") || die "$langevin does not run: $(tail -n 1 "$scratch/said")"
    built="$built as given, beside "
fi

# PyTorch's flags do not reach candle, whose cuDNN convolutions of f32 may use TF32; this forbids it to both.
[ "$device" = cpu ] || export NVIDIA_TF32_OVERRIDE=0

# --- rounds

field() { sed -n "s/.* $1=\([^ ]*\).*/\1/p" <<<"$2"; }
numeric() { [[ $1 =~ ^[0-9]+(\.[0-9]+)?$ ]]; }
measure() { # NAME NET CASE COMMAND...: appends "median peak batch params" to the file of NAME, NET and CASE
    local name=$1 net=$2 work=$3 line
    shift 3
    "$@" --net "$net" --case "$work" --runs "$runs" --device "$device" >"$scratch/line" 2>"$scratch/said" ||
        die "$name failed at $net/$work: $(tail -n 3 "$scratch/said")"
    line=$(grep "^$net/$work " "$scratch/line") || die "$name printed no line for $net/$work"
    numeric "$(field median_ms "$line")" || die "$name printed an odd line: $line"
    echo "$(field median_ms "$line") $(field peak_mib "$line") $(field batch "$line") $(field params "$line")" \
        >>"$scratch/$name-$net-$work"
    say "$(printf '  %-8s %s' "$name" "$line")"
}

for ((round = 1; round <= rounds; round++)); do
    say "round $round of $rounds"
    for net in ${nets//,/ }; do
        for work in ${cases//,/ }; do
            # who comes first changes with the round
            order='pytorch langevin'
            ((round % 2)) || order='langevin pytorch'
            for name in $order; do
                if [ "$name" = pytorch ]; then
                    measure pytorch "$net" "$work" "$python" "$peer"
                else
                    measure langevin "$net" "$work" "$langevin" bench
                fi
            done
        done
    done
done

# --- the table

median() { # FILE: the median of its first column
    sort -n "$1" | awk '{ t[NR] = $1 } END { printf "%.1f", (t[int((NR + 1) / 2)] + t[int(NR / 2) + 1]) / 2 }'
}
peak() { # FILE: the largest of its second column, or n/a
    awk '$2 !~ /^[0-9.]+$/ { odd = 1 } $2 > most + 0 { most = $2 } END { if (odd) print "n/a"; else printf "%.0f", most }' "$1"
}
ratio() {
    if numeric "$1" && numeric "$2"; then
        awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.2f", a / b; else print "n/a" }'
    else
        echo n/a
    fi
}
machine() { # processor, cores and system, as far as they can be found
    local cpu='' cores='' system=''
    if [ -r /proc/cpuinfo ]; then
        cpu=$(sed -n '/^model name/{s/[^:]*: //p;q;}' /proc/cpuinfo)
    elif command -v sysctl >/dev/null; then
        cpu=$(sysctl -n machdep.cpu.brand_string 2>/dev/null || true)
    fi
    cores=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo '?')
    [ ! -r /etc/os-release ] || system=$(sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\)"\{0,1\}$/\1, /p' /etc/os-release)
    echo "${cpu:-$(uname -m)}, $cores cores${gpu:+, $gpu}, $system$(uname -sr)"
}
rust=$(rustc --version 2>/dev/null | cut -d ' ' -f 1,2) || rust=
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || commit="$commit with changes"

{
    echo '| case | batch | PyTorch ms | Langevin ms | time, ours / theirs | PyTorch MiB | Langevin MiB | memory, ours / theirs |'
    echo '|---|--:|--:|--:|--:|--:|--:|--:|'
    for net in ${nets//,/ }; do
        for work in ${cases//,/ }; do
            theirs=$scratch/pytorch-$net-$work ours=$scratch/langevin-$net-$work
            same=$(awk '{ print $3, $4 }' "$theirs" "$ours" | sort -u)
            [ "$(wc -l <<<"$same")" -eq 1 ] || die "$net/$work: batch and parameters differ: ${same//$'\n'/ and }"
            their_ms=$(median "$theirs") our_ms=$(median "$ours") their_mib=$(peak "$theirs") our_mib=$(peak "$ours")
            echo "| $net/$work | ${same% *} | $their_ms | $our_ms | $(ratio "$our_ms" "$their_ms")" \
                "| $their_mib | $our_mib | $(ratio "$our_mib" "$their_mib") |"
        done
    done
    echo
    echo "$(machine); $versions${rust:+, $rust};" \
        "${built}commit $commit; f32, the median of $rounds rounds of $runs runs in turn."
} >"$scratch/table"
cat "$scratch/table"
[ -z "$out" ] || cp "$scratch/table" "$out"
