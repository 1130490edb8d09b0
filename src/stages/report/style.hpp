#pragma once
// The page's style sheet. Colours are variables with a light and a dark set; drawings use the same classes.

namespace divergen::stages::report {

inline constexpr const char* kStyle = R"css(
:root{color-scheme:light dark;--ground:#faf9f6;--panel:#fff;--ink:#1b211f;--soft:#454d49;--muted:#6d7571;--line:#e4e1d9;
--faint:#f2f0ea;--accent:#0c7566;--accent-soft:#d9ece8;--without:#8d958f;--down:#b4432c;--rare:#b3541f;--common:#9a7a14;
--frequent:#3a6ba5;--extra:#7756a3;--out1:#d8a08f;--out2:#e0bf8d;--out3:#c9b3d6;--out4:#b9c3c9}
@media (prefers-color-scheme:dark){:root{--ground:#121514;--panel:#191e1c;--ink:#e8ece9;--soft:#c3cac6;--muted:#929b96;
--line:#2b322f;--faint:#202624;--accent:#4fc4af;--accent-soft:#17352f;--without:#7d8681;--down:#e8846b;--rare:#e08a54;
--common:#d1b04a;--frequent:#7aaae0;--extra:#b497dd;--out1:#8f4f3d;--out2:#7d6233;--out3:#67517a;--out4:#4d585e}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 ui-sans-serif,system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif;font-feature-settings:"kern","liga"}
main{max-width:1080px;margin:0 auto;padding:56px 28px 72px}
h1,h2,h3,.answer,.big{font-family:Charter,"Bitstream Charter","Iowan Old Style","Palatino Linotype",Palatino,
"Source Serif 4",Georgia,serif;font-weight:600;letter-spacing:-.011em;text-wrap:balance}
h1{font-size:2.6rem;line-height:1.14;margin:.15em 0 .5em;max-width:22em}
h2{font-size:1.65rem;line-height:1.2;margin:0 0 .5em}
h3{font-size:1.08rem;margin:1.7em 0 .5em}
p{margin:.5em 0;max-width:46em}
.kicker{font-size:.78rem;letter-spacing:.09em;text-transform:uppercase;color:var(--muted);margin:0}
.answer{font-size:1.34rem;line-height:1.45;font-weight:400;max-width:34em;color:var(--soft);letter-spacing:0;text-wrap:pretty}
.answer b{color:var(--ink);font-weight:600}
.note,figcaption{color:var(--muted);font-size:.88rem;line-height:1.5}
.missing{border-left:3px solid var(--common);padding:.15em 0 .15em 1em;margin:1.6em 0;font-size:.92rem}
.missing.bad{border-color:var(--down)}.missing ul{margin:.3em 0;padding-left:1.2em}.missing p{margin:.2em 0}
.stats{display:grid;grid-template-columns:repeat(4,1fr);border-top:1px solid var(--line);border-bottom:1px solid var(--line);
margin:2.2em 0 1.2em}
.stat{padding:18px 20px 16px}.stat+.stat{border-left:1px solid var(--line)}
.stat .name{font-size:.85rem;color:var(--muted)}
.big{font-size:2.5rem;line-height:1.1;margin:.08em 0 .12em;font-variant-numeric:lining-nums tabular-nums}
.big.up{color:var(--accent)}.big.less{color:var(--down)}
.stat .from{font-size:.86rem;color:var(--soft);font-variant-numeric:tabular-nums}.stat .from i{font-style:normal;color:var(--muted)}
nav{display:flex;flex-wrap:wrap;gap:4px 20px;font-size:.9rem;padding:10px 0 0}
a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
section{margin-top:56px;padding-top:30px;border-top:1px solid var(--line)}
.two{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:24px 36px}
.three{display:grid;grid-template-columns:repeat(3,minmax(0,1fr));gap:18px 30px}
.two>div>h3,.three>div>h3{margin-top:.9em}
figure{margin:1em 0}figure>svg{display:block}figcaption{margin-top:.5em}
svg{width:100%;height:auto;overflow:visible;font-family:inherit}
.swatch{display:inline-flex;align-items:center;gap:.45em;margin-right:1.3em;font-size:.88rem;color:var(--soft);white-space:nowrap}
.swatch svg{width:12px;height:12px;flex:none}
.legend{margin:.4em 0 .2em}
.scroll{overflow-x:auto;margin:1em 0}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:lining-nums tabular-nums}
th{font-weight:500;color:var(--muted);text-align:left;font-size:.83rem;border-bottom:1px solid var(--line);vertical-align:bottom}
th,td{padding:7px 12px 7px 0;white-space:nowrap}td{border-bottom:1px solid var(--faint)}
td.wrap{white-space:normal}th.n,td.n{text-align:right;padding:7px 0 7px 14px}
tr.total td,tr:last-child td{border-bottom-color:var(--line)}
td b{font-weight:600}.up{color:var(--accent)}.less{color:var(--down)}.dim{color:var(--muted)}
.mono,pre{font-family:ui-monospace,"SF Mono","Cascadia Mono",Menlo,Consolas,monospace;font-size:.82rem}
.mono{overflow-wrap:anywhere}
pre{background:var(--panel);border:1px solid var(--line);border-radius:8px;padding:16px 18px;overflow-x:auto;line-height:1.5}
details{margin:.7em 0}summary{cursor:pointer;font-weight:500;padding:.25em 0}summary .dim{font-weight:400;font-size:.88rem}
.badge{font-size:.7rem;letter-spacing:.03em;border-radius:99px;padding:.1em .65em;border:1px solid currentColor;vertical-align:.1em}
.badge.rare{color:var(--rare)}.badge.common{color:var(--common)}.badge.frequent{color:var(--frequent)}
.badge.extra,.badge.other{color:var(--extra)}
.sheet{display:grid;grid-template-columns:150px 1fr;gap:4px 16px;align-items:start;padding:11px 0;border-bottom:1px solid var(--faint)}
.sheet .who{font-size:.93rem;line-height:1.35;padding-top:2px}.sheet .who span{display:block;font-size:.8rem;color:var(--muted)}
.tiles{display:flex;flex-wrap:wrap;gap:8px}
.tile{margin:0;width:66px}.tile img{width:66px;display:block;border-radius:5px;background:var(--faint)}
.tile figcaption{font-size:.66rem;line-height:1.25;margin-top:3px;text-align:center;font-variant-numeric:tabular-nums}
.mosaic figcaption{overflow-wrap:anywhere}
.tile.no{margin-left:0}.tile.no img{opacity:.74;filter:saturate(.6)}.tile.no figcaption{color:var(--down)}
.gap{width:1px;background:var(--line);align-self:stretch;margin:0 5px}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:14px}
.pictures figure,.pairs figure{margin:0}.pictures img,.pairs img{width:100%;display:block;border-radius:6px;image-rendering:auto}
.pairs{display:grid;gap:18px 26px;grid-template-columns:repeat(2,minmax(0,1fr))}
.pairs.one{grid-template-columns:repeat(auto-fill,minmax(420px,1fr))}.pairs .head{font-weight:500;font-size:.92rem}
footer{margin-top:64px;color:var(--muted);font-size:.85rem}
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--muted);stroke-width:1}.link{stroke:var(--muted);stroke-width:2;opacity:.45}
.tick{fill:var(--muted);font-size:11.5px;font-variant-numeric:tabular-nums}.label{fill:var(--ink);font-size:13px}.label.small{font-size:11.5px;fill:var(--soft)}
.gain{fill:var(--ink);font-size:14px;font-weight:600;font-variant-numeric:tabular-nums}.on-fill{fill:#fff;font-size:13px;font-weight:500}
.dot-hollow{fill:var(--ground);stroke:var(--without);stroke-width:2.4}.dot-full{fill:var(--accent);stroke:var(--ground);stroke-width:1.5}
.fill-rare{fill:var(--rare)}.fill-common{fill:var(--common)}.fill-frequent{fill:var(--frequent)}.fill-extra,.fill-other{fill:var(--extra)}
.down{fill:var(--down);opacity:.75}.fill-kept{fill:var(--accent)}.fill-without{fill:var(--without)}
.fill-out0{fill:var(--down);opacity:.8}.fill-out1{fill:var(--out1)}.fill-out2{fill:var(--out2)}.fill-out3{fill:var(--out3)}.fill-out4{fill:var(--out4)}
.bound{stroke:var(--ink);stroke-width:1;stroke-dasharray:3 3}.lane{fill:var(--accent-soft)}.lane-busy{fill:var(--accent)}
polyline{fill:none;stroke-linejoin:round;stroke-linecap:round}.raw{stroke-width:1;opacity:.25}.smooth{stroke-width:2.2}
.s0{stroke:var(--without)}.s1{stroke:var(--accent)}.s2{stroke:var(--frequent)}.s3{stroke:var(--rare)}.s4{stroke:var(--extra)}.s5{stroke:var(--common)}
rect.s0{fill:var(--without);stroke:none}rect.s1{fill:var(--accent);stroke:none}rect.s2{fill:var(--frequent);stroke:none}
rect.s3{fill:var(--rare);stroke:none}rect.s4{fill:var(--extra);stroke:none}rect.s5{fill:var(--common);stroke:none}
@media (max-width:760px){main{padding:32px 18px}h1{font-size:1.95rem}.answer{font-size:1.15rem}.two,.three,.pairs{grid-template-columns:1fr}
.stats{grid-template-columns:1fr 1fr}.stat:nth-child(3){border-left:0}.stat:nth-child(n+3){border-top:1px solid var(--line)}
.sheet{grid-template-columns:1fr}.pairs.one{grid-template-columns:1fr}}
@media print{details{display:block}nav{display:none}section{break-inside:auto}}
)css";

}  // namespace divergen::stages::report
