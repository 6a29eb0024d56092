//! Pages of one file: no script, no network.

pub(crate) mod charts;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2330;--soft:#66708a;--paper:#fff;--card:#f5f7fb;--line:#dde2ec;
--a:#2f6fde;--b:#d9822b;--c:#2a9d6f;--d:#b4438c}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf2;--soft:#9aa5bd;--paper:#12161f;--card:#1b2130;--line:#2d3548;
--a:#6ea2ff;--b:#f0a757;--c:#56c99a;--d:#e07fbd}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}.sub{color:var(--soft);margin:.2rem 0 1.2rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem}
.cards div{background:var(--card);border-radius:.6rem;padding:.7rem .9rem}.cards b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
.cards span{color:var(--soft);font-size:.85rem}figure{margin:1.2rem 0}figcaption{font-weight:600;margin-bottom:.3rem}
svg{width:100%;height:auto}svg path{fill:none;stroke-width:1.8}.grid{stroke:var(--line)}.tick{font-size:11px;fill:var(--soft)}
.end{text-anchor:end}.mid{text-anchor:middle}.legend{margin:.2rem 0;color:var(--soft);font-size:.85rem}.legend span{margin-right:1rem}
.legend i{display:inline-block;width:.8rem;height:.2rem;vertical-align:middle;margin-right:.35rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{padding:.3rem .5rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}thead th{color:var(--soft);font-weight:500;font-size:.85rem}
.bars th{width:9rem;font-weight:400;border:0}.bars td{border:0}.bars td:nth-child(2){padding:.25rem 0}.bars div{height:.85rem;border-radius:.2rem;min-width:2px}
.parts{display:flex}.bars .parts div{border-radius:0}
.bars .number{width:14rem;color:var(--soft);font-size:.85rem;text-align:left}.wide{overflow-x:auto}
";

/// Returns a whole page.
pub(crate) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{0}</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n",
        escaped(title)
    )
}

/// Returns a figure with as many digits as it deserves.
pub(crate) fn figure(value: Option<f64>, unit: &str) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}{unit}"),
        Some(value) if value.abs() >= 1.0 => format!("{value:.1}{unit}"),
        Some(value) => format!("{value:.3}{unit}"),
    }
}

/// Returns a share in percent.
pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// Returns text with nothing in it that a page would take for its own.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
