#!/usr/bin/env bash
# Whether two builds of the program make the same outputs on this machine, bit for bit: every verb on tiny models, which OLD
# trains first and both read. Nothing is stored, since bits differ from one CPU to another. It needs Python 3.
usage() {
    cat >&2 <<'END'
usage: scripts/same_outputs.sh [--keep] [--only PATTERN] OLD NEW
  OLD, NEW        two builds of the program, or scripts that run one
  --keep          keep the folder of all outputs, and say where it is
  --only PATTERN  only the commands that this extended regular expression matches, such as 'sample .*pc'
A line a command: same, DIFFERENT (in what, by how much), or which program fails. Exit status 1 unless all are the same.
END
    exit 2
}
set -euo pipefail
keep='' only=''
while [[ ${1-} == --* ]]; do
    case $1 in
        --keep) keep=yes ;;
        --only) only=${2-}; shift ;;
        *) usage ;;
    esac
    shift
done
[ $# = 2 ] || usage
for program; do [ -x "$program" ] || { echo "$program: no program lies there" >&2; exit 2; }; done
old=$(realpath "$1") new=$(realpath "$2") top=$(mktemp -d)
leave() { jobs -pr | xargs -r kill 2>/dev/null || :; wait; [ -n "$keep" ] || rm -rf "$top"; }
trap leave EXIT
export HF_HUB_OFFLINE=1 HF_HOME=$top/home
mkdir "$top/start" "$top/verdicts"
cd "$top/start"

# ---- what the commands read: data, and small models that OLD alone makes

cat > "$top/data.py" <<'END'
import json, math, os, struct, zlib

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

def png(path, channels, number, side=8):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    level = lambda x, y, c: int(128 + 100 * math.sin(number + c + (0.4 + 0.1 * (number % 3)) * x + 0.3 * y))
    rows = b"".join(b"\0" + bytes(level(x, y, c) for x in range(side) for c in range(channels)) for y in range(side))
    head = struct.pack(">IIBBBBB", side, side, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    open(path, "wb").write(b"\x89PNG\r\n\x1a\n" + b"".join(parts))

def tensors(path, of):
    head, body = {}, b""
    for name, shape, numbers in of:
        data = struct.pack(f"<{len(numbers)}f", *numbers)
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(head).encode()
    open(path, "wb").write(struct.pack("<Q", len(head)) + head + body)

for i in range(12):
    png(f"greys/{i}.png", 1, i)
    png(f"photos/{['left', 'right'][i % 2]}/{i}.png", 3, i)
png("large.png", 1, 5, 16)
wave = [math.sin(1.7 * i) for i in range(40)]
rows = [(w, 20 + 5 * w + math.cos(7 * i), 1000 - 30 * w * w) for i, w in enumerate(wave)]
open("rows.csv", "w").write("a,b,c\n" + "".join("%.3f,%.2f,%.1f\n" % row for row in rows))
open("integers.csv", "w").write("a,b,c\n" + "".join(f"{i % 4},{3 - i % 4},{i // 4 % 3}\n" for i in range(24)))
open("holes.csv", "w").write("c,a,b\n990,,20\n,0.5,NA\n980,-0.3,18\n")
tensors("images.safetensors", [("sample", [3, 1, 8, 8], [math.sin(i) for i in range(192)]), ("timestep", [3], [0.1, 1, 9])])
tensors("points.safetensors", [("sample", [3, 2], [0, 0.5, 1, -1, 2, 0.1]), ("timestep", [3], [0.1, 1, 9])])
END
cat > "$top/foreign.py" <<'END'
# Folders as other programs write them: the weights of `exported` without a word of ours, and the same as a consistency model.
import json, shutil, struct

path = "exported/unet/diffusion_pytorch_model.safetensors"
bytes_ = open(path, "rb").read()
end = 8 + struct.unpack("<Q", bytes_[:8])[0]
head = json.loads(bytes_[8:end])
head.pop("__metadata__", None)
head = json.dumps(head).encode()
open(path, "wb").write(struct.pack("<Q", len(head)) + head + bytes_[end:])
shutil.copytree("exported", "consistent")
scheduler = {"_class_name": "CMStochasticIterativeScheduler", "sigma_min": 0.002, "sigma_max": 80.0}
json.dump(scheduler, open("consistent/scheduler/scheduler_config.json", "w"))
json.dump({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1.0}, open("ve.json", "w"))
END
python3 "$top/data.py"

few='train.steps=4 train.batch=4 train.lr=0.01 train.warmup=1 train.log_every=1 train.checkpoint_every=2 train.snapshot_every=2
    sampler.steps=3'
unet='model.net.channels=[4,8] model.net.groups=2'
mlp='model.net.width=12 model.net.layers=2'
images="train digits $few $unet --data" photos="train digits $few $unet --data photos model.conditional=true train.label_dropout=0.2"
points="train toy:two-moons $few $mlp"
density='model.form=noise-norm model.normalised=true loss.time=0.001 loss.level=log-snr'
flow="$density loss.fokker_planck=0.01 loss.walkers=4 loss.level=importance"

make() {
    "$old" "$@" > "$top/said" 2>&1 || { echo "OLD cannot make what the commands need: langevin $*"; tail -3 "$top/said"; exit 1; }
}
make $points --out points $density train.steps=30 train.batch=32 train.checkpoint_every=30
make $points --out power ema.name=power train.steps=6
make train toy --data rows.csv --out table $few $mlp train.steps=20 train.batch=16
make $images greys --out image
make $images greys --out normal $density
make $photos --out classes model.head=denoiser
make $photos --out walkers $flow train.steps=3
make $photos --out distilled model.from=classes model.head=energy train.distil=3 train.steps=3
make $images greys --out ddpm model.head=denoiser process.name=table model.predict=eps model.sigma_data=1 \
    loss.weight=unit-eps loss.level=discrete
make export ddpm exported
python3 "$top/foreign.py"

# ---- how one is run, and how outputs are compared

cat > "$top/compare.py" <<'END'
# Says in one line in what the folders OLD and NEW differ, and by how much; nothing where they do not.
import json, math, os, re, struct, sys, zipfile, zlib, io

NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|\bnan\b|\binf\b|\bNaN\b")
TYPES = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "U32": "I", "U8": "B",
         "<f8": "d", "<f4": "f", "<i8": "q", "<i4": "i", "<u4": "I", "|u1": "B"}

def timeless(path, data):
    """Without what a clock or a process number had a part in."""
    name = os.path.basename(path)
    if ".tfevents." in name:
        out, at = [], 0
        while at + 12 <= len(data):
            size = struct.unpack("<Q", data[at:at + 8])[0]
            event = data[at + 12:at + 12 + size]
            if b"images_per_s" not in event:
                out.append(event[9:] if event[:1] == b"\x09" else event)
            at += 16 + size
        return b"".join(out)
    if name == "log.jsonl":
        return re.sub(rb'"images_per_s":[^,}]*,?', b"", data)
    if name == "lab.json":
        return re.sub(rb'"seconds": [^,}]*,?', b"", data)
    if name == "stdout":
        return re.sub(rb"(%\s+\S+\s+)\d+\.\d +", rb"\1", data)  # the seconds of lab
    if name == "stderr":
        data = re.sub(rb"nats, \d+\.\d s\n", b"nats\n", data)
        data = re.sub(rb"\d+ samples/s  .* left", b"", data)
        return b"".join(line for line in data.splitlines(True) if not re.search(rb" (left|so far)\n$", line))
    return data

def tree(root):
    found = {}
    for folder, _, files in os.walk(root):
        events = sorted(name for name in files if ".tfevents." in name)
        for name in files:
            path = os.path.join(folder, name)
            told = f"events {events.index(name)}.tfevents." if name in events else name
            with open(path, "rb") as file:
                found[os.path.relpath(os.path.join(folder, told), root)] = timeless(told, file.read())
    return found

def largest(a, b):
    """The largest difference of numbers, infinite where one is NaN and the other not."""
    if len(a) != len(b):
        return f"{len(a)} numbers against {len(b)}"
    off = lambda x, y: 0 if x == y or x != x and y != y else abs(x - y) if math.isfinite(x - y) else math.inf
    return "by %.3g" % max(map(off, a, b), default=0)

def plain(kind, data):
    return struct.unpack(f"<{len(data) // struct.calcsize(kind)}{kind}", data)

def arrays(parts_of, a, b):
    (a, rest_a), (b, rest_b) = parts_of(a), parts_of(b)
    if a.keys() != b.keys():
        return "other names: " + ", ".join(sorted(a.keys() ^ b.keys()))
    told = []
    for name in a:
        if a[name][:2] != b[name][:2]:
            told.append(f"{name} {a[name][:2]} against {b[name][:2]}")
        elif a[name] != b[name]:
            kind = TYPES.get(a[name][0])
            told.append(f"{name} " + (largest(plain(kind, a[name][2]), plain(kind, b[name][2])) if kind else "in its bytes"))
    if rest_a != rest_b:
        told.append("the rest: " + words(rest_a, rest_b))
    return ("; ".join(told[:3]) + (f"; and {len(told) - 3} more" if len(told) > 3 else "")) or "in its bytes alone"

def safetensors(data):
    end = 8 + struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:end])
    rest = json.dumps(head.pop("__metadata__", {}), sort_keys=True).encode()
    return {n: (h["dtype"], h["shape"], data[slice(*(end + at for at in h["data_offsets"]))]) for n, h in head.items()}, rest

def npz(data):
    found = {}
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        for name in file.namelist():
            array = file.read(name)
            size = struct.unpack("<H", array[8:10])[0]
            head = array[10:10 + size].decode()
            kind, shape = re.search(r"'descr': '([^']*)'", head).group(1), re.search(r"'shape': (\([^)]*\))", head).group(1)
            found[name] = (kind, shape, array[10 + size:])
    return found, b""

def png(data):
    at, text, body, head = 8, b"", b"", ()
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at:at + 8])
        part = data[at + 8:at + 8 + size]
        head = struct.unpack(">IIBBBBB", part) if kind == b"IHDR" else head
        body += part if kind == b"IDAT" else b""
        text += part + b"\n" if kind in (b"tEXt", b"iTXt", b"zTXt") else b""
        at += 12 + size
    (wide, high, depth, colour), raw, out, before = head[:4], zlib.decompress(body), bytearray(), None
    step = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if depth != 8:
        return {"pixels": ("U8", head, raw)}, text
    for y in range(high):
        row, how = bytearray(raw[y * (wide * step + 1) + 1:(y + 1) * (wide * step + 1)]), raw[y * (wide * step + 1)]
        for i in range(len(row)):
            a, b = row[i - step] if i >= step else 0, before[i] if before else 0
            c = before[i - step] if before and i >= step else 0
            paeth = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row[i] = (row[i] + (0, a, b, (a + b) // 2, paeth)[how]) % 256
        out, before = out + row, row
    return {"pixels": ("U8", head, bytes(out))}, text

def words(a, b):
    a, b = a.decode(errors="replace"), b.decode(errors="replace")
    if NUMBER.sub("#", a) == NUMBER.sub("#", b):
        return largest([float(v) for v in NUMBER.findall(a)], [float(v) for v in NUMBER.findall(b)])
    pairs = zip(a.splitlines() + [""], b.splitlines() + [""])
    x, y = next((pair for pair in pairs if pair[0] != pair[1]), ("", "more lines"))
    at = max(0, len(os.path.commonprefix([x, y])) - 20)
    return f"{x[at:at + 80]!r} against {y[at:at + 80]!r}"

def told(path, a, b):
    try:
        for end, of in (".safetensors", safetensors), (".npz", npz), (".png", png):
            if path.endswith(end):
                return f"{path} {arrays(of, a, b)}"
    except Exception as e:
        return f"{path} (not read: {e})"
    if path.endswith(".gif") or ".tfevents." in path:
        return f"{path} in its bytes"
    return f"{path} {words(a, b)}"

old, new = map(tree, sys.argv[1:])
lines = [f"{path} is of OLD alone" for path in old.keys() - new.keys()]
lines += [f"{path} is of NEW alone" for path in new.keys() - old.keys()]
lines += [told(path, old[path], new[path]) for path in sorted(old.keys() & new.keys()) if old[path] != new[path]]
print(", ".join(lines[:4]) + (f", and {len(lines) - 4} more files" if len(lines) > 4 else ""))
END

commands=0
once() { # PROGRAM NAME ARGS...: runs it on copies of what ARGS name, which are at the same path for both; its status
    local program=$1 name=$2 status=0 file
    shift 2
    mkdir here
    for file in "$top"/start/*; do [[ "$*" != *"${file##*/}"* ]] || cp -r "$file" here; done
    (cd here && exec timeout 300 "$program" "$@" > stdout 2> stderr < /dev/null) || status=$?
    mv here "$name"
    return $status
}
try() { # WHETHER ARGS...: runs both and writes the verdict; WHETHER they should work or fail
    local should=$1 a=0 b=0 verdict said
    shift
    once "$old" old "$@" || a=$?
    once "$new" new "$@" || b=$?
    said=$(python3 "$top/compare.py" old new)
    verdict=same
    [ "$a" = "$b" ] || said="exit status $a against $b${said:+, $said}"
    [ -z "$said" ] || verdict="DIFFERENT: $said"
    why() { tail -1 "$1/stderr" | cut -c 1-200; }
    case $should,$((a > 0)),$((b > 0)) in
        works,1,1) verdict="OLD fails and NEW fails: $(why new)" ;;
        works,1,0) verdict="OLD fails: $(why old)" ;;
        works,0,1) verdict="NEW fails: $(why new)" ;;
        fails,0,*) verdict="OLD works, where it should fail" ;;
        fails,1,0) verdict="NEW works, where it should fail: $(why old)" ;;
    esac
    [ "$verdict" = same ] && verdict="same " || verdict+=': '
    echo "${verdict}langevin $(shown "$@")" | tee "$top/verdicts/${PWD##*/}"
}
shown() { # ARGS...: without those that all runs have
    local word usual=" $(echo $few $unet $mlp) "
    for word; do [[ $usual == *" $word "* ]] || printf '%s ' "$word"; done
}
begin() { # WHETHER ARGS...: the same in the background, two at a time
    [[ -z $only || $(shown "${@:2}") =~ $only ]] || return 0
    commands=$((commands + 1))
    while [ "$(jobs -pr | wc -l)" -ge 2 ]; do wait -n || :; done
    (
        trap - EXIT
        mkdir "$top/$commands" && cd "$top/$commands"
        try "$@"
        [ -n "$keep" ] || rm -rf "${top:?}/$commands"
    ) &
}
same() { begin works "$@"; }
wrong() { begin fails "$@"; }
names() { "$old" list "$1" | cut -d ' ' -f 1; }

# ---- the commands

for name in $(names forms); do same $images greys --out run model.form=$name; done
for name in $(names forms); do same $points --out run model.form=$name; done
same $images greys --out run model.head=denoiser
same $images digits:train --out run train.steps=2
same $images greys --out run model.head=denoiser process.name=vp model.predict=eps loss.weight=min-snr loss.level=uniform
same $images greys --out run model.head=denoiser process.name=cosine model.predict=v loss.weight=unit-v loss.level=log-snr
same $images greys --out run model.head=denoiser process.name=subvp model.predict=x0 loss.weight=unit-x0
same $images greys --out run model.head=denoiser process.name=ve model.predict=score loss.weight=unit-score
same $images greys --out run model.head=denoiser process.name=flow model.predict=velocity loss.level=logit-normal \
    loss.weight=unit-velocity
same $images greys --out run model.head=denoiser process.name=table model.predict=eps loss.level=discrete
for name in $(names processes); do [ $name = table ] || same $points --out run process.name=$name; done
for name in $(names weights); do same $points --out run loss.weight=$name; done
for name in $(names levels); do [ $name = discrete ] || same $points --out run loss.level=$name; done
for name in $(names optimisers); do same $points --out run optimiser.name=$name train.accumulate=2; done
for name in $(names emas); do same $points --out run ema.name=$name train.decay=constant; done
same $points --out run $density
same $points --out run $flow train.steps=12
same $images greys --out run $density train.sample_every=2 data.dequantise=true data.flip=true
same $images greys --out run train.second_order=finite-difference
same $images greys --out run train.recompute=true
same $photos --out run model.head=denoiser
same $photos --out run $flow
same $photos --out run model.from=classes model.head=energy train.distil=2
same $images greys --out run model.from=image
same $images greys --out run model.from=exported train.distil=2
same train toy --data rows.csv --out run $few $mlp --seed 5
for run in image walkers distilled points power table; do same train --resume $run train.steps=32; done
same train digits --dry-run
same train digits-density --dry-run train.steps=7

for name in $(names samplers); do
    model=points
    [ $name != consistency ] || model=consistent
    same sample $model -n 6 --batch 4 --npz out.npz sampler.name=$name sampler.steps=5
done
for name in heun ddpm pndm pc; do same sample image -n 3 --batch 2 --images each sampler.name=$name sampler.steps=4; done
for kernel in $(names kernels | grep -v gibbs); do
    for name in annealed-mcmc tempering smc; do
        [ $name,$kernel = smc,langevin ] ||
            same sample points -n 6 --npz out.npz --report=report.json sampler.name=$name sampler.kernel=$kernel sampler.steps=6
    done
    same sample points -n 6 --npz out.npz --report=report.json sampler.name=pc sampler.corrector=$kernel sampler.steps=6
done
for kernel in mala hmc; do
    same sample points -n 6 --npz out.npz --report sampler.name=pc sampler.corrector=$kernel sampler.corrector_steps=2 \
        sampler.replicas=2 sampler.adapt=1 sampler.steps=6
done
same sample points -n 6 --npz out.npz sampler.name=pc sampler.predictor=dpmpp-2m-sde sampler.corrector=mala \
    sampler.replicas=3 sampler.steps=6
same sample classes -n 3 --npz out.npz --report sampler.name=annealed-mcmc sampler.kernel=mala sampler.steps=3
for grid in $(names grids); do same sample ddpm -n 2 --npz out.npz sampler.grid=$grid sampler.steps=4; done
same sample image -n 5 --out grid.png --images each --gif path.gif --npz out.npz
same sample image@2 --seeds 1,5-7 sampler.clip=true --npz out.npz
same sample points -n 20 --out points.png --size 64 --gif path.gif --frames 3
same sample table -n 12 --out drawn.csv
same sample image -n 2 --from large.png --strength 0.4 --npz out.npz
same sample image -n 2 --from large.png --strength 1 --encode --invert --npz out.npz
same sample image -n 4 --interpolate 3,8 --npz out.npz
same sample image -n 2 noise=torch sampler.name=ddpm --npz out.npz
same sample classes -n 4 --npz out.npz
same sample classes -n 3 --npz out.npz --class right --guidance 2
same sample classes -n 3 --npz out.npz --class none
same sample classes -n 3 --npz out.npz --class left --guidance 3 --guidance-interval 0.2,5 sampler.name=dpmpp-2m
same sample walkers -n 3 --npz out.npz --class left --guidance 2 sampler.name=annealed-mcmc sampler.steps=3
same sample image -n 3 --npz out.npz --guidance 2 --guide image@2
same sample image -n 3 --npz out.npz --guidance 2 --guide ddpm

for name in DDPM DDIM PNDM DPMSolverMultistep UniPCMultistep EulerDiscrete EulerAncestralDiscrete HeunDiscrete; do
    same sample exported -n 2 --npz out.npz --scheduler ${name}Scheduler sampler.steps=4
done
same sample exported -n 2 --npz out.npz noise=torch sampler.steps=4
same sample exported -n 2 --npz out.npz noise=torch sampler.steps=4 --scheduler ve.json
same sample exported -n 2 --npz out.npz sampler.name=heun sampler.steps=4
same sample consistent -n 2 --npz out.npz sampler.steps=2

exact='--let a=exact:8-gaussians --let b=exact:gaussian-2d --compose'
same sample $exact 'a & b' -n 20 --npz out.npz sampler.steps=8
same sample $exact '2*a & !b' -n 20 --npz out.npz sampler.steps=8 --report
same sample $exact 'a | 0.5:b' -n 20 --npz out.npz sampler.steps=8
same sample $exact 'a | (b & 0.5*a)' -n 8 --npz out.npz --estimate-ratios=16 sampler.steps=8
same sample $exact 'a & b' -n 8 --npz out.npz --temperature 2 sampler.name=heun sampler.steps=5
same sample --let a=points --let b=exact:8-gaussians --compose '2*a & b' -n 8 --out out.png sampler.name=pc \
    sampler.corrector=mala sampler.replicas=2 sampler.steps=5
same sample --let a=points --let b=exact:gaussian-2d:vp --compose 'a | b' -n 8 --npz out.npz sampler.name=annealed-mcmc \
    sampler.kernel=hmc sampler.steps=5
same sample --let a=classes,class=left --let b=classes,class=right --compose 'a & b' -n 3 --npz out.npz
same sample --let a=image --let b=ddpm --compose '2*a & !b' -n 3 --npz out.npz sampler.steps=4

same eval bits exact:8-gaussians --data toy:8-gaussians:test -n 8 --levels 10 --particles 8 --runs 2 --json bits.json
same eval bits points --data toy:two-moons:test -n 8 --noised --t-min 0.1 --levels 10 --particles 8 --runs 2 --moves 1 --kernel hmc \
    --json bits.json
same eval bits normal --data greys -n 6 --rtol 1e-2 --atol 1e-2 --levels 6 --particles 4 --runs 2 --moves 1 --json bits.json
same eval bits walkers --data photos -n 4 --rtol 1e-2 --atol 1e-2 --probes 2 --levels 4 --particles 4 --runs 2 --json bits.json
same eval bits table --data rows.csv -n 6 --method ode,ais --levels 6 --particles 4 --runs 2
same eval bits classes --data photos -n 4 --method ode --rtol 1e-2 --atol 1e-2 --class left
same eval ood image --data greys --fit greys --ood noise:uniform --ood rotate:90=greys -n 12 --fit-samples 12 --json ood.json \
    --plot ood.png
same eval ood walkers --data photos --fit photos --ood noise:gaussian --class none -n 12 --by-class --fit-samples 6 \
    --scores score-norms,likelihood --levels 0.3,1 likelihood.tolerance=0.1
same detect image greys --fit greys --fit-samples 12 --held-out greys --alpha 0.4 --out odd.csv --maps maps
same detect points toy:rings:test --held-out-samples 30 --fit-samples 30 --scores energy,score-norms
for name in $(names methods); do
    same inpaint image --input large.png --mask half -n 2 --method $name sampler.steps=5
    same impute table --data holes.csv --out filled.csv -n 3 --method $name sampler.steps=5
done
same inpaint image --data greys -n 2 --table --mask wide sampler.steps=8
same inpaint image --data greys -n 2 --task superres=2 sampler.steps=8 --noise 0.05
same inpaint image --data greys -n 2 --task deblur=1.0 --method dps,mcmc sampler.steps=4 mcmc.kernel=hmc
same inpaint classes --data photos -n 2 --task colour --method repaint,dps sampler.steps=8 --guidance 2
same impute table --data holes.csv --out draws.csv -n 2 --draws sampler.steps=5 mcmc.kernel=langevin
same look curl image -n 4 --levels 0.3,1
same look curl classes -n 3 --levels 0.5 --class left
same look path image --from 0 --to 1 --points 7
same look path classes --from 0 --to large.png --points 5 --class right
same look spectrum image -n 2 --steps 6
same look histogram image -n 8
same look landscape points --size 64
same look landscape image --through 0,1,2 --size 32

# densities of a family, where OLD has them
if "$old" list presets | grep -q '^rbm-digits'; then
    rbm='train rbm-digits model.hidden=8 train.steps=6 train.batch=10 train.log_every=2 train.checkpoint_every=3 sampler.steps=5'
    make $rbm --out rbm
    for name in $(names losses | grep contrastive); do same $rbm --out run loss.name=$name loss.k=2; done
    same $rbm --out run loss.persistent=10 loss.centred=true data.binarise=sample train.accumulate=2
    same train --resume rbm train.steps=9
    for name in $(names chains); do same sample rbm -n 5 --batch 2 --npz out.npz --report=r.json sampler.name=$name; done
    same sample rbm -n 4 --out grid.png
    same inpaint rbm --data digits:test -n 2 --mask half
    same inpaint rbm --input large.png --mask wide -n 3
    same detect rbm digits:test --fit-samples 40 --held-out-samples 60
    same eval ood rbm --data digits:test --ood noise:uniform -n 30 --fit-samples 30 --json ood.json
    same eval ais rbm --data digits:test -n 30 --rungs 20 --particles 10 --json ais.json
    same look filters rbm
    same info rbm
fi
if "$old" list presets | grep -q '^dbm-mnist'; then
    dbm='train dbm-mnist --data digits model.layers=[8,9] train.steps=9 train.batch=10 train.checkpoint_every=4 loss.pretrain=3 sampler.steps=5'
    make $dbm --out dbm
    same train --resume dbm train.steps=12
    same sample dbm -n 5 --batch 2 --npz out.npz --report=r.json
    same inpaint dbm --data digits:test -n 2 --mask half
    same eval ais dbm --data digits:test -n 30 --rungs 20 --particles 10 --reverse 5 --json ais.json
    for way in loss.tempering=3 loss.fast_rate=0.1 loss.sparsity=0.1; do same $rbm --out run loss.persistent=10 $way; done
fi

# units of several states, where OLD has them
if "$old" list presets | grep -q '^rbm-potts'; then
    potts='train rbm-potts model.hidden=8 model.states=4 train.steps=6 train.batch=10 train.checkpoint_every=3 sampler.steps=5'
    make $potts --out potts
    make $potts --out codes --data integers.csv
    same $potts --out run loss.k=2 loss.centred=false
    same train --resume potts train.steps=9
    for name in $(names chains); do same sample potts -n 3 --npz out.npz --report=r.json sampler.name=$name; done
    same sample codes -n 5 --out out.csv
    for model in potts codes; do same info $model; done
    same inpaint potts --data digits:test -n 2 --mask half
    same detect potts digits:test --fit-samples 40 --held-out-samples 60
    same eval ood codes --data integers.csv --ood integers.csv -n 4 --fit-samples 2 --json ood.json
    same eval ais potts --data digits:test -n 30 --rungs 20 --particles 10 --json ais.json
    same eval ais codes --data integers.csv -n 12 --rungs 20 --particles 10 --json ais.json
    same look filters potts
fi
if "$old" list presets | grep -q '^ebm-toy'; then
    ebm='train ebm-toy model.widths=[8,8] train.steps=6 train.batch=10 train.checkpoint_every=3 sampler.rungs=4 sampler.sweeps=5'
    make $ebm --out ebm
    for name in score-matching denoising-score-matching nce conditional-nce info-nce energy-discrepancy; do
        same $ebm --out run loss=$name
    done
    for name in sliced sliced-variance-reduced; do same $ebm --out run loss=score-matching loss.divergence=$name; done
    for name in langevin mala hmc; do same $ebm --out run loss=contrastive-divergence loss.kernel=$name loss.persistent=10; done
    same train --resume ebm train.steps=9
    same sample ebm -n 5 --npz out.npz
    same lab toy:8-gaussians --evaluations 2000 --json lab.json
    same eval ais ebm --data toy:8-gaussians:test -n 30 --rungs 20 --particles 10 --json ais.json
fi

same apply image --input images.safetensors --output out.safetensors --what output,x0,eps,score,energy,logp
same apply points --input points.safetensors --output out.safetensors --what x0,score,energy,logp
same apply exported/unet --input images.safetensors --output out.safetensors --what score,energy --energy inner-product
same export ddpm folder
same export image folder sampler.name=heun
same ema power --std 0.1 --out averaged.safetensors
for model in image image@2 walkers points table exported consistent exact:8-gaussians; do same info $model; done
same check
same list
same completions bash
same --licences

wrong train digts
wrong train digits train.stpes=3
wrong train digits --out image
wrong train toy --data rows.csv --out run loss.time=0.001
wrong train --resume image train.lr=1
wrong sample points sampler.name=huen
wrong sample nothing
wrong sample classes sampler.name=smc
wrong sample points sampler.name=smc sampler.kernel=langevin
wrong eval bits classes --data photos --method energy
wrong hub ls nobody/nothing
wrong inpaint image --input missing.png --mask half
wait

all=$(cat "$top"/verdicts/* 2>/dev/null || :)
good=$(grep -c '^same ' <<<"$all" || :)
[ -z "$keep" ] || echo "the outputs are in $top"
if [ "$commands" = 0 ]; then
    echo "no command matches $only"
    exit 2
elif [ "$good" != "$commands" ]; then
    echo "NOT the same: $((commands - good)) of $commands commands"
    grep -v '^same ' <<<"$all" || :
    exit 1
fi
echo "all $commands commands are the same"
