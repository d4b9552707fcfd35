//! One image file: its size, and its pixels, upright and with 8 bits a channel.
//!
//! All image files are read here, so that an image is the same whatever reads it: EXIF orientation is applied,
//! transparency is laid over white, images of another shape are cropped about the centre to the aspect ratio and then
//! scaled by Lanczos, and colours become grey by Rec. 601, as in Pillow.

use crate::images::MIN_SIDE;
use candle_core::{Device, Result, Tensor};
use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, GrayImage, ImageDecoder, ImageReader, ImageResult, Limits, Luma, Rgb, RgbImage};
use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The largest image file that is read, and the most bytes that an image may take once it is decoded.
const MOST_BYTES: u64 = 1 << 30;
/// An image that takes more bytes than this once it is decoded must not take more than `RATIO` times its file, a little more than
/// blank pages do: deflate makes at most 1032 bytes of one.
const ALWAYS_READ: u64 = 256 << 20;
const RATIO: u64 = 1100;
/// Images that take more bytes than this are decoded one at a time.
const LARGE: u64 = 64 << 20;
static LARGE_IMAGE: Mutex<()> = Mutex::new(());

/// Values from this on are white in a mask, and opaque.
const HALF: u8 = 128;

/// Why an image cannot be read, in a sentence that begins with the path of its file.
type Unreadable = String;

/// What the header of an image file says.
pub(crate) struct Header {
    /// Of the upright image.
    pub height: usize,
    pub width: usize,
    /// Whether it has colours. Those of a palette may all be grey.
    pub colour: bool,
    pub palette: bool,
    /// Whether it may be transparent in parts.
    pub alpha: bool,
    /// Whether it has 16 bits a channel.
    pub deep: bool,
}

/// What the header of the image at `path` says. An error where the image would be refused by its size, and for a JPEG
/// that is cut short.
pub(crate) fn header(path: &Path) -> std::result::Result<Header, Unreadable> {
    let bytes = read(path)?;
    let mut decoder = decoder(path, &bytes)?;
    let (mut width, mut height) = decoder.dimensions();
    if sideways(orientation(path, &mut decoder)?) {
        (width, height) = (height, width);
    }
    let colour = decoder.color_type();
    Ok(Header {
        height: height as usize,
        width: width as usize,
        colour: colour.has_color(),
        palette: has_palette(&bytes),
        alpha: colour.has_alpha() && !bytes.starts_with(b"GIF8"), // of which every one is decoded with it
        deep: is_deep(colour),
    })
}

/// What `make` makes of the upright image at `path`.
pub(crate) fn with_image<T>(path: &Path, make: impl FnOnce(DynamicImage) -> T) -> std::result::Result<T, Unreadable> {
    let bytes = read(path)?;
    let mut decoder = decoder(path, &bytes)?;
    let orientation = orientation(path, &mut decoder)?;
    let large = decoder.total_bytes() > LARGE;
    // nothing is guarded but memory, so a panic of another thread does no harm
    let _alone = large.then(|| LARGE_IMAGE.lock().unwrap_or_else(PoisonError::into_inner));
    let mut image = DynamicImage::from_decoder(decoder).map_err(|e| unreadable(path, e))?;
    image.apply_orientation(orientation);
    Ok(make(image))
}

fn unreadable(path: &Path, why: impl std::fmt::Display) -> Unreadable {
    format!("{}: {why}", path.display())
}

/// All bytes of the file.
fn read(path: &Path) -> std::result::Result<Vec<u8>, Unreadable> {
    let length = fs::metadata(path).map_err(|e| unreadable(path, e))?.len();
    if length > MOST_BYTES {
        return Err(unreadable(path, format!("a file of {length} bytes is too large for an image")));
    }
    let bytes = fs::read(path).map_err(|e| unreadable(path, e))?;
    // the decoder fills what is missing with grey, without a word
    if bytes.starts_with(&[0xff, 0xd8]) && !has_end(&bytes) {
        return Err(unreadable(path, "the JPEG is cut short or damaged: its end-of-image marker is missing"));
    }
    Ok(bytes)
}

fn decoder<'a>(path: &Path, bytes: &'a [u8]) -> std::result::Result<impl ImageDecoder + 'a, Unreadable> {
    let open = || -> ImageResult<_> {
        let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
        let mut limits = Limits::default();
        limits.max_alloc = Some(MOST_BYTES);
        reader.limits(limits);
        reader.into_decoder()
    };
    let decoder = open().map_err(|e| unreadable(path, e))?;
    let ((width, height), size) = (decoder.dimensions(), decoder.total_bytes());
    if (width as usize) < MIN_SIDE || (height as usize) < MIN_SIDE {
        return Err(unreadable(
            path,
            format!("{width}x{height} pixels are too few, each side needs at least {MIN_SIDE}"),
        ));
    }
    if size > MOST_BYTES || size > ALWAYS_READ && size > RATIO * bytes.len() as u64 {
        return Err(unreadable(
            path,
            format!("{width}x{height} pixels in a file of {} bytes are too many; make the image smaller", bytes.len()),
        ));
    }
    Ok(decoder)
}

fn orientation(path: &Path, decoder: &mut impl ImageDecoder) -> std::result::Result<Orientation, Unreadable> {
    decoder.orientation().map_err(|e| unreadable(path, e))
}

/// Whether width and height change places.
fn sideways(orientation: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(orientation, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

fn is_deep(colour: ColorType) -> bool {
    matches!(colour, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16)
}

/// Whether the pixels of a PNG, GIF or BMP are numbers of colours in a palette.
fn has_palette(bytes: &[u8]) -> bool {
    let png = bytes.starts_with(b"\x89PNG") && bytes.get(25) == Some(&3); // colour type of the header chunk
    let bmp = bytes.starts_with(b"BM") && bytes.get(28).is_some_and(|&bits| bits <= 8);
    png || bmp || bytes.starts_with(b"GIF8")
}

/// Whether a JPEG goes on to its end-of-image marker. The segments are followed, as a preview in one of them has an end
/// of its own. [ITU-T T.81, annex B]
fn has_end(bytes: &[u8]) -> bool {
    const START: u8 = 0xd8;
    const END: u8 = 0xd9;
    let mut rest = &bytes[2..];
    loop {
        // in entropy-coded data 0xff is followed by 0 or a restart marker, and 0xff may be repeated before any marker
        let marks = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 1 | 0xff | 0xd0..=0xd7);
        let Some(at) = rest.windows(2).position(marks) else { return false };
        match rest[at + 1] {
            END => return true,
            START => rest = &rest[at + 2..],
            _ => {
                let Some(length) = rest.get(at + 2..at + 4) else { return false };
                let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                let Some(after) = rest.get(at + 2 + length..) else { return false };
                rest = after;
            }
        }
    }
}

/// Whether every pixel is grey.
pub(crate) fn is_grey(image: &DynamicImage) -> bool {
    image.to_rgba8().pixels().all(|p| p[3] == 0 || p[0] == p[1] && p[1] == p[2])
}

/// The largest value of a channel, of 65535; alpha is none.
pub(crate) fn largest_value(image: &DynamicImage) -> u16 {
    match image {
        DynamicImage::ImageLuma16(image) => image.iter().copied().max().unwrap_or(0),
        _ => image.to_rgb16().iter().copied().max().unwrap_or(0),
    }
}

/// What to say of `count` images of 16 bits whose values go up to `largest`, if they leave half of the range empty.
pub(crate) fn too_dark(count: usize, largest: u16) -> Option<String> {
    let levels = (u32::from(largest) + 128) / 257 + 1;
    let bits = (u16::BITS - largest.leading_zeros()).max(1);
    (bits < u16::BITS).then(|| {
        let images = if count == 1 { "an image of 16 bits holds" } else { "images of 16 bits hold" };
        format!(
            "{images} no value above {largest} of 65535, so {levels} of 256 grey levels are left; if they have {bits} \
             bits, multiply them by {}",
            1u32 << (u16::BITS - bits)
        )
    })
}

/// The grey of a colour by Rec. 601, 0.299 R + 0.587 G + 0.114 B, rounded as Pillow rounds it.
fn grey_of([r, g, b]: [u8; 3]) -> u8 {
    ((19595 * u32::from(r) + 38470 * u32::from(g) + 7471 * u32::from(b) + 0x8000) >> 16) as u8
}

/// The largest part about the centre that has the aspect ratio of `height` to `width`.
fn crop(image: DynamicImage, height: usize, width: usize) -> DynamicImage {
    let (w, h) = (u64::from(image.width()), u64::from(image.height()));
    let (height, width) = (height as u64, width as u64);
    let part = |side: u64, of: u64, to: u64| ((side * of + to / 2) / to).max(1);
    let (cw, ch) =
        if w * height > h * width { (part(h, width, height).min(w), h) } else { (w, part(w, height, width).min(h)) };
    match (cw, ch) == (w, h) {
        true => image,
        false => image.crop_imm(((w - cw) / 2) as u32, ((h - ch) / 2) as u32, cw as u32, ch as u32),
    }
}

/// 8 bits a channel, grey or in colour, transparency over white.
fn flat(image: DynamicImage) -> DynamicImage {
    match (image.color().has_alpha(), image.color().has_color()) {
        (true, _) => DynamicImage::ImageRgb8(over(&image, 255)),
        (false, true) => DynamicImage::ImageRgb8(image.into_rgb8()),
        (false, false) => DynamicImage::ImageLuma8(image.into_luma8()),
    }
}

/// The image laid over the grey level `ground`.
fn over(image: &DynamicImage, ground: u32) -> RgbImage {
    let image = image.to_rgba8();
    let mix = |v: u8, a: u8| ((u32::from(v) * u32::from(a) + ground * (255 - u32::from(a)) + 127) / 255) as u8;
    let pixel = |x, y| {
        let [r, g, b, a] = image.get_pixel(x, y).0;
        Rgb([mix(r, a), mix(g, a), mix(b, a)])
    };
    RgbImage::from_fn(image.width(), image.height(), pixel)
}

fn scale(image: DynamicImage, height: usize, width: usize) -> DynamicImage {
    match (image.height() as usize, image.width() as usize) == (height, width) {
        true => image,
        // the kernel is widened when shrinking, so without aliasing
        false => image.resize_exact(width as u32, height as u32, FilterType::Lanczos3),
    }
}

/// The bytes of an image as of [`crop`], [`flat`] and scaling, `[1 or 3, height, width]`.
pub(crate) fn pixels(image: DynamicImage, [channels, height, width]: [usize; 3]) -> Vec<u8> {
    // cropped first: the memory that scaling takes goes with what is left
    let image = scale(flat(crop(image, height, width)), height, width);
    match (channels, image) {
        (1, DynamicImage::ImageLuma8(image)) => image.into_raw(),
        (1, image) => image.into_rgb8().pixels().map(|pixel| grey_of(pixel.0)).collect(),
        (_, image) => channels_first(image.into_rgb8().as_raw(), height * width, 3),
    }
}

/// [N, H, W, C] to [N, C, H, W].
pub(crate) fn channels_first(data: &[u8], area: usize, c: usize) -> Vec<u8> {
    if c == 1 || area == 0 {
        return data.to_vec();
    }
    let mut out = Vec::with_capacity(data.len());
    for image in data.chunks_exact(area * c) {
        for channel in 0..c {
            out.extend(image[channel..].iter().step_by(c));
        }
    }
    out
}

/// An image file as a model takes it.
#[derive(Clone, Debug)]
pub struct Picture {
    /// f32 `[1, C, H, W]`, v / 127.5 - 1.
    pub x: Tensor,
    /// What the user should know: that it is nearly black.
    pub notes: Vec<String>,
}

/// The image file at `path` in the `shape` `[C, H, W]`, read as the images of a folder are. With 4 channels transparency is
/// kept as the fourth.
pub fn picture(path: &Path, shape: &[usize]) -> Result<Picture> {
    let &[c @ (1 | 3 | 4), height, width] = shape else {
        bail!("{}: samples of shape {shape:?} are made of no image file", path.display())
    };
    let read = with_image(path, |image| {
        let notes = notes(path, &image);
        let bytes = match c {
            4 => {
                let image = DynamicImage::ImageRgba8(crop(image, height, width).into_rgba8());
                channels_first(scale(image, height, width).into_rgba8().as_raw(), height * width, 4)
            }
            _ => pixels(image, [c, height, width]),
        };
        (bytes, notes)
    });
    let (bytes, notes) = or_bail(read)?;
    let x = bytes.into_iter().map(|v| f32::from(v) / 127.5 - 1.).collect();
    Ok(Picture { x: Tensor::from_vec(x, (1, c, height, width), &Device::Cpu)?, notes })
}

fn or_bail<T>(read: std::result::Result<T, Unreadable>) -> Result<T> {
    match read {
        Ok(read) => Ok(read),
        Err(why) => bail!("{why}"),
    }
}

/// What to say of an image that is taken alone.
fn notes(path: &Path, image: &DynamicImage) -> Vec<String> {
    let dark = is_deep(image.color()).then(|| too_dark(1, largest_value(image))).flatten();
    dark.into_iter().map(|note| format!("{}: {note}", path.display())).collect()
}

/// A mask that an image file holds.
#[derive(Clone, Debug)]
pub struct MaskFile {
    /// Whether each pixel is hidden, row by row.
    pub hidden: Vec<bool>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// The mask in the image file at `path`, cropped about the centre and scaled to `height` x `width`.
///
/// Hidden are pixels that are white, that is with a grey level of 128 or more, and not transparent. Where all that is not
/// transparent has one colour, alpha is the mask, and what is opaque is hidden. An error where nothing is.
pub fn mask(path: &Path, height: usize, width: usize) -> Result<MaskFile> {
    let read = with_image(path, |image| {
        let mut notes = notes(path, &image);
        let by_alpha = image.color().has_alpha() && is_one_colour(&image);
        if by_alpha {
            notes.push(format!("{}: all of it has one colour, so what is opaque is hidden", path.display()));
        }
        let image = crop(image, height, width);
        let levels: GrayImage = match by_alpha {
            true => GrayImage::from_fn(image.width(), image.height(), {
                let image = image.to_rgba8();
                move |x, y| Luma([image.get_pixel(x, y)[3]])
            }),
            false => {
                let image = over(&image, 0);
                GrayImage::from_fn(image.width(), image.height(), |x, y| Luma([grey_of(image.get_pixel(x, y).0)]))
            }
        };
        let lightest = levels.iter().copied().max().unwrap_or(0);
        let binary = GrayImage::from_fn(levels.width(), levels.height(), |x, y| {
            Luma([if levels.get_pixel(x, y)[0] >= HALF { 255 } else { 0 }])
        });
        // a pixel is hidden if half of what it covers is
        let binary = DynamicImage::ImageLuma8(binary).resize_exact(width as u32, height as u32, FilterType::Triangle);
        let hidden: Vec<bool> = binary.into_luma8().iter().map(|&v| v >= HALF).collect();
        (hidden, notes, lightest)
    });
    let (hidden, mut notes, lightest) = or_bail(read)?;
    let count = hidden.iter().filter(|hidden| **hidden).count();
    if count == 0 {
        bail!(
            "{}: the mask hides nothing, its largest value is {lightest} of 255; make white (128 or more) what is to be \
             filled in",
            path.display()
        );
    }
    if count == hidden.len() {
        notes.push(format!("{}: the mask hides everything", path.display()));
    }
    Ok(MaskFile { hidden, notes })
}

/// Whether alpha varies, and colour does not where alpha is above 0.
fn is_one_colour(image: &DynamicImage) -> bool {
    let image = image.to_rgba8();
    let mut visible = image.pixels().filter(|pixel| pixel[3] > 0);
    let Some(first) = visible.next() else { return false };
    let one_alpha = image.pixels().all(|pixel| pixel[3] == first[3]);
    !one_alpha && visible.all(|pixel| pixel.0[..3] == first.0[..3])
}
