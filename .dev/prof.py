"""Where the time of a compiled delta batch goes."""
import sys, time, torch
from pathlib import Path
sys.path.insert(0, "benchmarks/on_gpu"); sys.path.insert(0, "benchmarks/speed")
from encoding import reference_of
from fmritok.tokenizers.vae.delta import DeltaEncoder
from fmritok.tokenizers.vae.delta_walk import BasePass
from fmritok.tokenizers.vae.autoencoder import latent_of
from fmritok.tokenizers.vae.arithmetic import fp32_products, equal_batches
from fmritok.tokenizers.vae.weights import load_autoencoder, resolve_weights
dev = torch.device("cuda")
batch = int(sys.argv[1]); only_compile = len(sys.argv) > 2
model = load_autoencoder(resolve_weights(reference_of("full", Path("/tmp"))), decoder=False).to(dev).to(memory_format=torch.channels_last)
enc = DeltaEncoder(lambda x: latent_of(model, x), compile=True)
torch.manual_seed(0)
b = torch.rand(16,1,96,96,device=dev).expand(-1,3,-1,-1); d = torch.randn(batch,1,96,96,device=dev).expand(-1,3,-1,-1)*.005
def timed(name, f, n=3):
    f(); torch.cuda.synchronize(); t=time.perf_counter()
    for _ in range(n): f()
    torch.cuda.synchronize(); s=(time.perf_counter()-t)/n; print(f"{name}: {1000*s:.2f} ms", flush=True); return s
with torch.inference_mode(), fp32_products("delta", dev):
    if not only_compile:
        timed("base f64, 16 images (232 positions: x14.5)", lambda: enc.base(b))
        class F(BasePass): pass
        import fmritok.tokenizers.vae.delta as D
        def base32():
            w = BasePass(enc); w.through(b.float()); return w
        timed("base f32, 16 images", base32)
        print("notes GB of one image", sum(v.numel()*4 for n in enc.base(b).notes_of(0) for v in n)/1e9)
    notes = enc.base(b).notes_of(0)
    with equal_batches():
        t=time.perf_counter(); enc.deviations(notes,d); torch.cuda.synchronize(); print("compile s", time.perf_counter()-t, flush=True)
        if only_compile: sys.exit()
        s = timed("compiled batch %d"%batch, lambda: enc.deviations(notes,d), 10); print("ms a volume of 232 positions:", 1000*s*232/batch, "of 288:", 1000*s*288/batch)
        timed("eager batch", lambda: enc._deviations(notes,d), 2)
        from torch.profiler import profile, ProfilerActivity
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as p:
            for _ in range(3): enc.deviations(notes,d)
            torch.cuda.synchronize()
        print(p.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=90)[:14000] if False else "")
        rows = sorted(p.key_averages(), key=lambda e: -e.self_device_time_total)
        tot = sum(e.self_device_time_total for e in rows)
        for e in rows[:45]:
            print(f"{e.self_device_time_total/3000:8.3f} ms {100*e.self_device_time_total/tot:5.1f}% x{e.count/3:6.1f} {e.key[:110]}")
        kinds={}
        for e in rows:
            k = "triton" if e.key.startswith("triton") else "gemm/conv" if any(w in e.key.lower() for w in ("gemm","conv","xmma","cutlass","nchw","nhwc","cudnn","sm90","sm80")) else "other"
            kinds[k]=kinds.get(k,0)+e.self_device_time_total/3000
        print(kinds, tot/3000)
