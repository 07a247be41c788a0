//! Line plots as SVG: a logarithmic x axis, a linear y axis from zero, a legend.

use std::fmt::Write as _;

/// One line of a plot.
pub struct Line {
    pub name: String,
    /// In the order of x.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 300.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;

/// Colours that are told apart without red against green (Okabe and Ito); after the eighth they begin anew, dashed.
const COLOURS: [&str; 8] = ["#0072b2", "#000000", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c8c00"];

/// A plot of `lines`, of which those without points are left out. `x_label` says what stands below a value of x.
pub fn plot(title: &str, x_title: &str, x_label: fn(f64) -> String, y_title: &str, lines: Vec<Line>) -> String {
    let lines: Vec<Line> = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
    let all = || lines.iter().flat_map(|line| &line.points);
    let (low, high) = all().fold((f64::MAX, f64::MIN), |(low, high), &(x, _)| (low.min(x), high.max(x)));
    let top = nice(all().fold(0.0, |top: f64, &(_, y)| top.max(y)));
    let x_at = |x: f64| {
        let width = (high / low).ln();
        let share = if width > 0.0 { (x / low).ln() / width } else { 0.5 };
        LEFT + share * (WIDTH - LEFT - RIGHT)
    };
    let y_at = |y: f64| HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);

    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
<text x="{LEFT}" y="24" font-size="16">{title}</text>
<text x="{}" y="{}" text-anchor="middle">{x_title}</text>
<text transform="translate(18 {}) rotate(-90)" text-anchor="middle">{y_title}</text>
"##,
        f64::midpoint(LEFT, right),
        HEIGHT - 16.0,
        f64::midpoint(TOP, bottom),
    );
    for step in 0..=5 {
        let value = top * f64::from(step) / 5.0;
        let y = y_at(value);
        add(&mut svg, format_args!(r##"<path d="M{LEFT} {y:.1}H{right}" stroke="#dddddd"/>"##));
        add(&mut svg, format_args!(r#"<text x="{}" y="{:.1}" text-anchor="end">{value}</text>"#, LEFT - 8.0, y + 4.0));
    }
    for x in ticks(all().map(|&(x, _)| x).collect()) {
        let at = x_at(x);
        add(&mut svg, format_args!(r##"<path d="M{at:.1} {bottom}v5" stroke="#000000"/>"##));
        let label = x_label(x);
        add(&mut svg, format_args!(r#"<text x="{at:.1}" y="{}" text-anchor="middle">{label}</text>"#, bottom + 20.0));
    }
    for (index, line) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let dashes = if index < COLOURS.len() { "none" } else { "6 3" };
        let stroke = format!(r#"fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}""#);
        let points: Vec<_> = line.points.iter().map(|&(x, y)| format!("{:.1},{:.1}", x_at(x), y_at(y))).collect();
        add(&mut svg, format_args!(r#"<polyline points="{}" {stroke}/>"#, points.join(" ")));
        let y = TOP + 10.0 + 20.0 * index as f64;
        add(&mut svg, format_args!(r#"<path d="M{} {y}h24" {stroke}/>"#, right + 20.0));
        add(&mut svg, format_args!(r#"<text x="{}" y="{}">{}</text>"#, right + 52.0, y + 4.0, line.name));
    }
    svg + "</svg>\n"
}

fn add(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("a string takes all");
}

/// The x values themselves where they are few; powers of ten where they are many.
fn ticks(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values.dedup();
    if values.len() <= 10 {
        return values;
    }
    let (low, high) = (values[0].log10().ceil() as i32, values[values.len() - 1].log10().floor() as i32);
    (low..=high).map(|power| 10f64.powi(power)).collect()
}

/// The least of 1, 2, 2.5, 5 times a power of ten that is not below `value`.
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|&nice| nice >= value).unwrap_or(value)
}
