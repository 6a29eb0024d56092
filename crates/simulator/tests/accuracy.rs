//! Replays, fits and figures on tables whose truth is known.

use sagellm_perf::{Calibration, Factor};
use sagellm_simulator::accuracy::{Measured, Replay, SplitName, evaluate, parse};

const HEADER: &str = "model_path,precision,system,backend,mode,isl,osl,batch_size,tp_size,silicon_ttft_ms,silicon_tpot_ms,id\n";

/// Rows of small closed loops, "measured" by the model itself with these numbers.
fn table(truth: &Calibration) -> Vec<Measured> {
    let mut text = HEADER.to_owned();
    for (model, precision) in [("Qwen/Qwen3-32B", ""), ("openai/gpt-oss-120b", "fp4")] {
        for system in ["h100_sxm", "b200_sxm"] {
            for tp in [2, 4] {
                for clients in [2, 4, 8] {
                    let id = format!("{model}-{system}-{tp}-{clients}");
                    text += &format!(
                        "{model},{precision},{system},vllm,agg,400,60,{clients},{tp},1,1,{id}\n"
                    );
                }
            }
        }
    }
    let mut rows = parse(&text).expect("a good table");
    for row in &mut rows {
        let seen = Replay::of(row).expect("supported").run(truth);
        (row.silicon_ttft_ms, row.silicon_tpot_ms) = (seen.ttft_ms, seen.tpot_ms);
    }
    rows
}

fn slower() -> Calibration {
    let mut truth = Calibration::default();
    truth.0[Factor::Layer as usize] *= 2.0;
    truth.0[Factor::Request as usize] *= 0.5;
    truth.0[Factor::ReadBf16 as usize] *= 1.3;
    truth
}

#[test]
fn a_fit_finds_what_made_the_table_and_predicts_what_it_has_not_seen() {
    let rows = table(&slower());
    let (accuracy, _) = evaluate(&rows, |_| {});
    let figures = |split| accuracy.class(split, "total").expect("it has rows");
    let fitted = figures(SplitName::InSample);
    assert!(fitted.tpot_mape < 0.01 && fitted.ttft_mape < 0.03, "{fitted:?}");
    let shipped = figures(SplitName::Shipped);
    assert!(shipped.tpot_mape > 3.0 * fitted.tpot_mape, "the truth is another: {shipped:?}");
    for split in [SplitName::FiveFold, SplitName::LeaveOneTpOut, SplitName::ToB200] {
        let figures = figures(split);
        assert!(figures.tpot_mape < 0.06, "{split:?}: {figures:?}");
    }
    assert!(accuracy.unsupported.is_empty() && accuracy.knees.is_empty());
}

#[test]
fn what_cannot_be_replayed_counts_as_a_miss_and_is_named() {
    let mut rows = table(&Calibration::default());
    rows.truncate(6);
    let unknown =
        Measured { model_path: "acme/unheard-of".into(), id: "u".into(), ..rows[0].clone() };
    let large = Measured {
        model_path: "meta-llama/Llama-3.1-405B".into(),
        tp_size: 1.0,
        id: "l".into(),
        ..rows[0].clone()
    };
    let ranks = Measured { attention_dp_size: Some(4.0), id: "d".into(), ..rows[0].clone() };
    rows.extend([unknown, large, ranks]);
    let (accuracy, _) = evaluate(&rows, |_| {});
    let figures = accuracy.class(SplitName::InSample, "total").expect("it has rows");
    assert_eq!((figures.rows, figures.unsupported), (9, 3));
    assert!(figures.tpot_mape >= 3.0 / 9.0 && figures.coverage80 <= 6.0 / 9.0, "{figures:?}");
    let why: Vec<&str> = accuracy.unsupported.iter().map(|(_, why)| why.as_str()).collect();
    assert!(why[0].contains("unknown model"), "{why:?}");
    assert!(why[1].contains("does not fit") && why[1].contains("GiB"), "{why:?}");
    assert!(why[2].contains("data parallelism"), "{why:?}");
}

#[test]
fn two_runs_give_the_same_figures() {
    let rows = table(&slower());
    let rows = &rows[..8];
    let once = evaluate(rows, |_| {}).0;
    assert_eq!(once, evaluate(rows, |_| {}).0);
    assert!(once.to_markdown(true).contains("| Qwen3-32B bf16 h100 TP2 |"));
}
