//! What leads outside: files and their links, providers and what they are called with.

mod files;
mod health;
mod lookbook;
mod pictures;
mod platforms;
mod providers;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use std::io::Cursor;

/// A picture of upright stripes, in the format of choice.
fn picture(width: u32, height: u32, colours: &[[u8; 3]], format: ImageFormat) -> Vec<u8> {
    let stripe = |x: u32| colours[(x as usize * colours.len()) / width as usize];
    let picture = DynamicImage::from(RgbImage::from_fn(width, height, |x, _| Rgb(stripe(x))));
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}
