#!/usr/bin/env bash
# The program end to end on a few steps, as a user would run it. usage: scripts/smoke.sh PROGRAM
set -euo pipefail
langevin=$(realpath "$1")
cd "$(mktemp -d)"
trap 'rm -rf "$PWD"' EXIT

ok() { echo "+ langevin $*" >&2; "$langevin" "$@"; }
fails() { # STATUS TEXT ARGS...: must end with that status and one sentence that has that text
    local want=$1 text=$2 got=0 said
    shift 2
    said=$("$langevin" "$@" 2>&1 >/dev/null) || got=$?
    echo "! langevin $*: $said"
    [ "$got" = "$want" ] || { echo "status $got, expected $want"; exit 1; }
    grep -qF -- "$text" <<<"$said" || { echo "expected the message to have: $text"; exit 1; }
}
png() { [ "$(head -c 4 "$1" | tail -c 3)" = PNG ] || { echo "$1 is no PNG"; exit 1; }; }

small='train.batch=4 train.checkpoint_every=2 train.snapshot_every=2 sampler.steps=3'
tiny='model.net.channels=[8,8] model.net.groups=4'

ok train digits train.steps=4 $small $tiny
png runs/digits/samples/step-4.png
for file in config.toml model.safetensors log.jsonl snapshots/step-2.safetensors; do [ -s "runs/digits/$file" ]; done
ok train --resume runs/digits train.steps=6 | grep -q 'resumed at step 4'
ok train digits train.steps=2 model.head=denoiser process.name=flow model.predict=velocity loss.level.name=logit-normal \
    loss.weight.name=unit-velocity ema.name=power $small $tiny --out flow
ok train toy:two-moons train.steps=20 train.batch=32 train.sample_every=0
png runs/toy-two-moons/samples/step-20.png

ok sample runs/digits -n 4 sampler.steps=3 --out grid.png --npz samples.npz --gif path.gif --images images
png grid.png; png images/0.png; [ -s samples.npz ]; [ "$(head -c 3 path.gif)" = GIF ]
ok sample runs/digits@4 --seeds 1,3-4 sampler.name=dpmpp-2m sampler.steps=4 --out two.png
ok sample runs/digits --from images/0.png --strength 0.4 -n 2 sampler.steps=4 --out from.png
ok info runs/digits
ok list samplers
ok list > all.txt; [ "$(wc -l < all.txt)" -gt 40 ]
ok train digits --dry-run > digits.toml
ok train digits.toml --dry-run train.steps=5 | grep -q '^steps = 5'
ok check > check.txt; tail -1 check.txt
ok bench --net mnist --case forward --batch 2 --runs 1
ok eval bits exact:8-gaussians --data toy:8-gaussians:test -n 8 --levels 20 --particles 16 | grep -q 'ode - energy'
ok sample --let a=exact:8-gaussians --compose '2*a' -n 8 sampler.steps=4 --out composed.png
png composed.png
ok inpaint runs/digits --data digits:test -n 1 --mask half --method replace sampler.steps=4 --out filled.png
png filled.png
ok sample runs/digits -n 2 sampler.steps=3 --guidance 2 --guide runs/digits@2 --out guided.png
png guided.png
ok eval ood runs/digits --data digits:test --ood noise:uniform -n 8 --fit-samples 16 --levels 0.3,1 \
    --scores energy,score-norms | grep -q '^score-norms *noise:uniform'
ok detect runs/digits images --fit-samples 16 --held-out-samples 120 --levels 0.3 --scores energy --maps maps | grep -q maps
png maps/0.png
ok look curl runs/digits -n 2 --levels 0.3 > curl.txt
printf 'a,b\n1,2\n2,3.9\n3,6.1\n4,8\n' > whole.csv
ok train toy --data whole.csv train.steps=20 train.batch=4 train.sample_every=0 --out table
printf 'a,b\n1.5,\n,5\n' > holes.csv
ok impute table --data holes.csv --out filled.csv -n 4 sampler.steps=4
! grep -q ',$\|^,' filled.csv
ok look landscape runs/toy-two-moons --out landscape.png
png landscape.png
ok train rbm-digits train.steps=30 model.hidden=16 sampler.steps=20 --out rbm
png rbm/samples/step-30.png; png rbm/samples/filters-step-30.png
ok train --resume rbm train.steps=40 | grep -q 'resumed at step 30'
ok sample rbm -n 4 --out bits.png
png bits.png
ok inpaint rbm --data digits:test -n 2 --mask half --out clamped.png
png clamped.png
ok eval ais rbm --data digits:test -n 20 --rungs 50 --particles 10 | grep -q 'log Z, exact'
ok train dbm-mnist --data digits train.steps=30 loss.pretrain=10 model.layers=[16,20] sampler.steps=20 --out dbm
png dbm/samples/step-30.png
ok eval ais dbm --data digits:test -n 20 --rungs 50 --particles 10 --reverse 10 | grep -q 'log p, bound'
ok detect rbm digits:test --fit-samples 40 --held-out-samples 60 | grep -q typicality
ok train ebm-toy train.steps=20 model.widths=[16,16] sampler.rungs=4 sampler.sweeps=5 --out ebm
ok eval ais ebm --data toy:8-gaussians:test -n 20 --rungs 50 --particles 10 --reverse 0 | grep -q 'log Z, exact'
ok lab toy:8-gaussians --evaluations 3000 --methods sm,nce --out page.png | grep -q '^nce'
png page.png
ok completions bash > completions.bash; grep -q langevin completions.bash
ok --licences > licences.txt; grep -q 'Attribution-Share Alike 3.0' licences.txt

fails 2 'one of: digits' train digts
fails 2 'steps' train digits train.stpes=3
fails 2 'train.batch' train digits train.batch=0
fails 2 'train.steps' train digits train.steps=-5
fails 2 'train.lr' train digits train.lr=fast
fails 2 'heun' train digits sampler.name=huen
fails 2 'already holds a run' train digits --out runs/digits
fails 1 'nowhere' train digits --data nowhere
fails 2 'nothing' sample nothing
fails 2 'toy:8-gaussians' lab toy:pinwheel
mkdir empty; fails 1 'empty' train digits --data empty
head -c 5000 runs/digits/model.safetensors > half.safetensors; fails 1 'half.safetensors' sample half.safetensors
echo 'the program works end to end'
