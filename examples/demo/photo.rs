//! A picture of our own making: a shirt on a hanger before an evening wall.

use anyhow::Result;
use image::{ImageFormat, Rgb, RgbImage};
use std::io::Cursor;

const WIDTH: u32 = 900;
const HEIGHT: u32 = 1200;

/// Draws it, as a JPEG.
pub(crate) fn draw_photo() -> Result<Vec<u8>> {
    let picture = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        // coordinates from the middle of the shirt: x from -0.75 to 0.75, y from -1 to 1
        let scale = f64::from(HEIGHT) / 2.0;
        let at = (f64::from(x) / scale - 0.75, f64::from(y) / scale - 1.0);
        colour(at)
    });
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Jpeg)?;
    Ok(bytes.into_inner())
}

fn colour((x, y): (f64, f64)) -> Rgb<u8> {
    let side = x.abs();
    if on_hook(x, y) {
        return Rgb([58, 60, 66]);
    }
    let neck = (x * x + (y + 0.46) * (y + 0.46)).sqrt() < 0.15;
    let body = side < 0.36 + 0.04 * (y + 0.45) && (-0.47..0.72).contains(&y);
    let shoulder = y > -0.47 + (side - 0.14).max(0.0) * 0.45;
    // sleeves hang outwards and end in a slanted cuff
    let sleeve = (0.30..0.64).contains(&side) && shoulder && y < 0.28 - (0.64 - side) * 1.1;
    if (body && shoulder || sleeve) && !neck {
        return cloth(x, y, sleeve && !body);
    }
    wall(x, y)
}

/// Stripes, with folds as soft shadows.
fn cloth(x: f64, y: f64, on_sleeve: bool) -> Rgb<u8> {
    let stripe = ((y * 24.0 + if on_sleeve { x.abs() * 6.0 } else { 0.0 }).sin() * 4.0).clamp(-1.0, 1.0);
    let fold = 0.86 + 0.14 * ((x * 17.0 + y * 3.0).sin() * (y * 2.0 + 1.0).cos());
    let mix = |a: f64, b: f64| ((a + (b - a) * (stripe + 1.0) / 2.0) * fold).clamp(0.0, 255.0);
    pixel(mix(222.0, 38.0), mix(214.0, 70.0), mix(196.0, 116.0))
}

/// An evening wall, lit from the upper left.
fn wall(x: f64, y: f64) -> Rgb<u8> {
    let light = 1.0 - 0.28 * ((x + 0.5).powi(2) + (y + 0.7).powi(2)).sqrt();
    pixel(236.0 * light, 178.0 * light, 142.0 * light)
}

fn on_hook(x: f64, y: f64) -> bool {
    let ring = ((x * x + (y + 0.78) * (y + 0.78)).sqrt() - 0.07).abs() < 0.012 && (x > 0.0 || y < -0.78);
    let stem = x.abs() < 0.012 && (-0.71..-0.54).contains(&y);
    let arm = (y + 0.55 - x.abs() * 0.45).abs() < 0.014 && x.abs() < 0.34;
    ring || stem || arm
}

fn pixel(red: f64, green: f64, blue: f64) -> Rgb<u8> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a byte")]
    let byte = |value: f64| value.round().clamp(0.0, 255.0) as u8;
    Rgb([byte(red), byte(green), byte(blue)])
}
