//! What an `image` step may ask for: the operations of the contract with their ranges and defaults.
//!
//! Knows no pixels and no files: a file is the id the step named.

use super::{
    super::checked::{self, Whole},
    PictureFault,
};
use greenroom_actors::ids::FileId;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::fmt;

/// Widest and highest a requested result may be, in pixels.
pub(super) const SIDE_MAX: u32 = 4096;

/// The most pictures a collage takes.
pub(super) const COLLAGE_MAX: usize = 16;

/// One step's wish: what to do and how to write the result.
#[derive(Debug, PartialEq)]
pub(super) struct Request {
    pub(super) operation: Operation,
    pub(super) format: Format,
}

/// The operations, each with its own parameters.
#[derive(Debug, PartialEq)]
pub(super) enum Operation {
    Resize(Resize),
    Crop(Crop),
    Thumbnail(Thumbnail),
    Grayscale(Grayscale),
    Blur(Blur),
    Palette(Palette),
    Collage(Collage),
    Watermark(Watermark),
}

/// The file format of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Format {
    #[default]
    Jpeg,
    Png,
    Webp,
}

/// How a picture fills the asked size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Fit {
    /// Whole picture inside the size, proportions kept.
    #[default]
    Contain,
    /// Exactly the size, proportions kept, what sticks out is cut off evenly.
    Cover,
    /// Exactly the size, stretched.
    Fill,
}

/// Where a watermark lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Position {
    TopLeft,
    TopRight,
    BottomLeft,
    #[default]
    BottomRight,
    Center,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resize {
    pub(super) file: FileId,
    width: Option<Whole<1, SIDE_MAX>>,
    height: Option<Whole<1, SIDE_MAX>>,
    #[serde(default)]
    pub(super) fit: Fit,
}

impl Resize {
    /// The asked width and height; at least one is there.
    pub(super) fn size(&self) -> (Option<u32>, Option<u32>) {
        (self.width.map(|w| w.0), self.height.map(|h| h.0))
    }
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Crop {
    pub(super) file: FileId,
    pub(super) x: Whole<0, { u32::MAX }>,
    pub(super) y: Whole<0, { u32::MAX }>,
    pub(super) width: Whole<1, { u32::MAX }>,
    pub(super) height: Whole<1, { u32::MAX }>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Thumbnail {
    pub(super) file: FileId,
    pub(super) size: Whole<16, 1024>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Grayscale {
    pub(super) file: FileId,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Blur {
    pub(super) file: FileId,
    #[serde(deserialize_with = "sigma")]
    pub(super) sigma: f32,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Palette {
    pub(super) file: FileId,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) count: Whole<1, 16, 5>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Collage {
    /// A null is the picture of a branch that did not succeed: it is left out.
    files: Vec<Option<FileId>>,
    columns: Option<Whole<1, 16>>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) cell: Whole<64, 1024, 512>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) gap: Whole<0, 256, 0>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) background: Colour,
}

impl Collage {
    /// The pictures to lay out, in order.
    pub(super) fn files(&self) -> Vec<FileId> {
        self.files.iter().flatten().copied().collect()
    }

    /// Cells in a row; unless asked for, the grid is as square as it can be.
    pub(super) fn columns(&self) -> u32 {
        match self.columns {
            Some(columns) => columns.0,
            None => {
                let pictures = self.files.iter().flatten().count();
                (1..=16).find(|n| n * n >= pictures).and_then(|n| u32::try_from(n).ok()).unwrap_or(16)
            }
        }
    }
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Watermark {
    pub(super) file: FileId,
    pub(super) mark: FileId,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) position: Position,
    #[serde(default = "half", deserialize_with = "opacity")]
    pub(super) opacity: f32,
}

impl Request {
    /// Reads a step's rendered input.
    ///
    /// # Errors
    /// [`PictureFault::Rejected`] naming the parameter that is unknown, missing, of the wrong type or out of range.
    pub(super) fn parse(input: &Value) -> Result<Self, PictureFault> {
        let Value::Object(input) = input else {
            return Err(PictureFault::Rejected("the input of an image step must be an object".to_owned()));
        };
        let mut parameters = input.clone();
        let format = match parameters.remove("format") {
            None | Some(Value::Null) => Format::default(),
            Some(format) => read("/format", format)?,
        };
        let op: String = match parameters.remove("op") {
            Some(op) => read("/op", op)?,
            None => return Err(PictureFault::Rejected("/op: is missing".to_owned())),
        };
        let operation = match op.as_str() {
            "resize" => Operation::Resize(read_all(parameters)?),
            "crop" => Operation::Crop(read_all(parameters)?),
            "thumbnail" => Operation::Thumbnail(read_all(parameters)?),
            "grayscale" => Operation::Grayscale(read_all(parameters)?),
            "blur" => Operation::Blur(read_all(parameters)?),
            "palette" => Operation::Palette(read_all(parameters)?),
            "collage" => Operation::Collage(read_all(parameters)?),
            "watermark" => Operation::Watermark(read_all(parameters)?),
            other => {
                return Err(PictureFault::Rejected(format!(
                    "/op: {other:?} is none of resize, crop, thumbnail, grayscale, blur, palette, collage, watermark"
                )));
            }
        };
        match &operation {
            Operation::Resize(resize) if resize.size() == (None, None) => {
                return Err(PictureFault::Rejected("/width: width or height must be given".to_owned()));
            }
            Operation::Collage(collage) if collage.files.len() > COLLAGE_MAX => {
                return Err(PictureFault::Rejected(format!("/files: at most {COLLAGE_MAX} pictures")));
            }
            Operation::Collage(collage) if collage.files().is_empty() => {
                return Err(PictureFault::Rejected("/files: at least one picture is needed".to_owned()));
            }
            _ => {}
        }
        Ok(Self { operation, format })
    }
}

impl Operation {
    /// The word of the contract.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Resize(_) => "resize",
            Self::Crop(_) => "crop",
            Self::Thumbnail(_) => "thumbnail",
            Self::Grayscale(_) => "grayscale",
            Self::Blur(_) => "blur",
            Self::Palette(_) => "palette",
            Self::Collage(_) => "collage",
            Self::Watermark(_) => "watermark",
        }
    }

    /// The files it reads, in the order the pictures are handed to it.
    pub(super) fn files(&self) -> Vec<FileId> {
        match self {
            Self::Resize(Resize { file, .. })
            | Self::Crop(Crop { file, .. })
            | Self::Thumbnail(Thumbnail { file, .. })
            | Self::Grayscale(Grayscale { file })
            | Self::Blur(Blur { file, .. })
            | Self::Palette(Palette { file, .. }) => vec![*file],
            Self::Collage(collage) => collage.files(),
            Self::Watermark(watermark) => vec![watermark.file, watermark.mark],
        }
    }
}

fn read_all<T: DeserializeOwned>(parameters: Map<String, Value>) -> Result<T, PictureFault> {
    read("", Value::Object(parameters))
}

fn read<T: DeserializeOwned>(at: &str, value: Value) -> Result<T, PictureFault> {
    checked::read(at, value).map_err(|faults| {
        let said = faults.iter().map(|fault| match fault.path.as_str() {
            "" => fault.message.clone(),
            path => format!("{path}: {}", fault.message),
        });
        PictureFault::Rejected(said.collect::<Vec<_>>().join("; "))
    })
}

/// An opaque colour written `#rrggbb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour(pub(super) [u8; 3]);

impl Default for Colour {
    fn default() -> Self {
        Self([255; 3])
    }
}

impl fmt::Display for Colour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Colour {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut colour = [0; 3];
        match text.strip_prefix('#') {
            Some(digits) if hex::decode_to_slice(digits, &mut colour).is_ok() => Ok(Self(colour)),
            _ => Err(serde::de::Error::custom("must be a colour written #rrggbb")),
        }
    }
}

/// A template renders what is not there as null: the same as leaving it out.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn sigma<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    within(f32::deserialize(deserializer)?, 0.1, 50.0)
}

fn opacity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
    within(Option::deserialize(deserializer)?.unwrap_or_else(half), 0.0, 1.0)
}

fn half() -> f32 {
    0.5
}

fn within<E: serde::de::Error>(number: f32, min: f32, max: f32) -> Result<f32, E> {
    if (min..=max).contains(&number) {
        Ok(number)
    } else {
        Err(E::custom(format!("must be from {min} to {max}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ID: &str = "0193a1b2-0000-7000-8000-000000000001";

    fn refusal(input: Value) -> String {
        match Request::parse(&input) {
            Err(PictureFault::Rejected(message)) => message,
            other => panic!("{input} was not rejected: {other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let request = Request::parse(&json!({"op": "collage", "files": [ID, null, ID, ID]})).unwrap();
        assert_eq!(request.format, Format::Jpeg);
        let Operation::Collage(collage) = &request.operation else { panic!("{request:?}") };
        assert_eq!((collage.cell.0, collage.gap.0, collage.columns()), (512, 0, 2));
        assert_eq!(collage.background.to_string(), "#ffffff");
        assert_eq!(collage.files().len(), 3, "the picture of a failed branch is left out");

        let request = Request::parse(&json!({"op": "palette", "file": ID, "count": null})).unwrap();
        assert!(matches!(&request.operation, Operation::Palette(p) if p.count.0 == 5));

        let request = Request::parse(&json!({"op": "watermark", "file": ID, "mark": ID})).unwrap();
        assert!(matches!(&request.operation, Operation::Watermark(w)
            if w.position == Position::BottomRight && w.opacity == 0.5));
    }

    #[test]
    fn a_number_out_of_a_template_may_be_a_whole_float() {
        let request = Request::parse(&json!({"op": "resize", "file": ID, "width": 256.0})).unwrap();
        assert!(matches!(&request.operation, Operation::Resize(r) if r.size() == (Some(256), None)));
    }

    #[test]
    fn every_refusal_names_the_parameter_and_the_range() {
        for (input, expected) in [
            (json!("resize"), "must be an object"),
            (json!({}), "/op: is missing"),
            (json!({"op": 3}), "/op: invalid type"),
            (json!({"op": "explode"}), "/op: \"explode\" is none of"),
            (json!({"op": "resize", "file": ID}), "/width: width or height"),
            (
                json!({"op": "resize", "file": ID, "width": 0}),
                "/width: must be a whole number from 1 to 4096",
            ),
            (
                json!({"op": "resize", "file": ID, "width": 4097}),
                "/width: must be a whole number from 1 to 4096",
            ),
            (json!({"op": "resize", "file": ID, "width": -1}), "/width: must be a whole number"),
            (json!({"op": "resize", "file": ID, "width": 1.5}), "/width: must be a whole number"),
            (json!({"op": "resize", "file": ID, "width": 1e300}), "/width: must be a whole number"),
            (json!({"op": "resize", "file": ID, "width": "9"}), "/width: invalid type"),
            (json!({"op": "resize", "file": ID, "height": 9, "fit": "squash"}), "/fit: unknown variant"),
            (json!({"op": "resize", "file": ID, "height": 9, "depth": 9}), "unknown field `depth`"),
            (json!({"op": "resize", "file": "my photo", "height": 9}), "/file: "),
            (json!({"op": "crop", "file": ID, "x": 0, "y": 0, "width": 4}), "missing field `height`"),
            (json!({"op": "crop", "file": ID, "x": 0, "y": 0, "width": 4, "height": 0}), "/height: "),
            (
                json!({"op": "thumbnail", "file": ID, "size": 15}),
                "/size: must be a whole number from 16 to 1024",
            ),
            (json!({"op": "thumbnail", "file": ID, "size": 1025}), "/size: "),
            (json!({"op": "grayscale"}), "missing field `file`"),
            (json!({"op": "grayscale", "file": ID, "format": "gif"}), "/format: unknown variant"),
            (json!({"op": "blur", "file": ID, "sigma": 0.05}), "/sigma: must be from 0.1 to 50"),
            (json!({"op": "blur", "file": ID, "sigma": 50.5}), "/sigma: must be from 0.1 to 50"),
            (json!({"op": "blur", "file": ID}), "missing field `sigma`"),
            (
                json!({"op": "palette", "file": ID, "count": 17}),
                "/count: must be a whole number from 1 to 16",
            ),
            (json!({"op": "collage", "files": []}), "/files: at least one"),
            (json!({"op": "collage", "files": [null]}), "/files: at least one"),
            (json!({"op": "collage", "files": vec![ID; 17]}), "/files: at most 16"),
            (json!({"op": "collage", "files": [ID, 7]}), "/files/1: "),
            (
                json!({"op": "collage", "files": [ID], "cell": 63}),
                "/cell: must be a whole number from 64 to 1024",
            ),
            (json!({"op": "collage", "files": [ID], "columns": 0}), "/columns: "),
            (json!({"op": "collage", "files": [ID], "background": "red"}), "/background: must be a colour"),
            (
                json!({"op": "watermark", "file": ID, "mark": ID, "opacity": 1.1}),
                "/opacity: must be from 0 to 1",
            ),
            (json!({"op": "watermark", "file": ID, "mark": ID, "position": "middle"}), "/position: unknown"),
            (json!({"op": "watermark", "file": ID}), "missing field `mark`"),
        ] {
            let message = refusal(input.clone());
            assert!(message.contains(expected), "{input}: {message}");
        }
    }
}
