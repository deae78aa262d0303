//! Reads from the texts of a request which input images are products and which are references.

use drawing::Input;
use image::DynamicImage;

/// How many input images before the first caption are products. Further images before it are references.
const MAX_UNCAPTIONED_PRODUCTS: usize = 3;

/// A text or an input image of the user, in the order of the request.
pub(crate) enum Piece<'a> {
    Text(&'a str),
    Image(DynamicImage),
}

/// Separates the prompt from the captions, and the products from the references.
///
/// The protocols have no roles for images, so a client says in a caption what each image is. A text directly before an
/// image is its caption, unless no other text is left for the prompt. A caption with `reference`, `style` or `model`
/// makes the image a reference. A caption also counts for the images after it, until the next caption.
pub(crate) fn read_captions(pieces: Vec<Piece<'_>>) -> (String, Vec<Input>) {
    let is_caption = |(index, piece): (usize, &Piece<'_>)| {
        matches!(piece, Piece::Text(_)) && matches!(pieces.get(index + 1), Some(Piece::Image(_)))
    };
    let mut captions: Vec<bool> = pieces.iter().enumerate().map(is_caption).collect();
    let is_text = |piece: &Piece<'_>| matches!(piece, Piece::Text(_));
    if let Some(first) = pieces.iter().position(is_text)
        && (pieces.iter().zip(&captions)).all(|(piece, caption)| *caption || !is_text(piece))
    {
        captions[first] = false;
    }

    let mut words = Vec::new();
    let mut inputs: Vec<Input> = Vec::new();
    // What the latest caption says. `None` before the first caption.
    let mut captioned_as_reference = None;
    for (piece, caption) in pieces.into_iter().zip(captions) {
        match piece {
            Piece::Text(text) if caption => {
                let text = text.to_lowercase();
                let reference_words = ["reference", "style", "model"];
                captioned_as_reference =
                    Some(reference_words.iter().any(|word| text.contains(word)));
            }
            Piece::Text(text) => words.push(text),
            Piece::Image(image) => {
                let is_reference =
                    captioned_as_reference.unwrap_or(inputs.len() >= MAX_UNCAPTIONED_PRODUCTS);
                inputs.push(Input {
                    image,
                    is_reference,
                });
            }
        }
    }
    (words.join(" "), inputs)
}
