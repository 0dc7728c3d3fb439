package wire

import "unicode/utf8"

// replaceInvalid gives b as UTF-8 with U+FFFD for what is not: one for each
// longest piece that a valid sequence could begin with, else for each byte, as
// Unicode recommends. Half of a surrogate pair is one such piece, which it is
// for Java: clients get names back as Kafka would send them.
func replaceInvalid(b []byte) string {
	out := make([]byte, 0, len(b)*len("\uFFFD"))
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			n = invalidPiece(b)
		}
		out = utf8.AppendRune(out, r)
		b = b[n:]
	}
	return string(out)
}

// invalidPiece is how many bytes at the start of b one U+FFFD stands for, when
// no rune begins there.
func invalidPiece(b []byte) int {
	var more int // bytes that should follow the first
	low, high := byte(0x80), byte(0xbf)
	switch c := b[0]; {
	case c >= 0xc2 && c <= 0xdf:
		more = 1
	case c >= 0xe0 && c <= 0xef:
		more = 2
		if c == 0xe0 {
			low = 0xa0
		}
	case c >= 0xf0 && c <= 0xf4:
		more = 3
		if c == 0xf0 {
			low = 0x90
		} else if c == 0xf4 {
			high = 0x8f
		}
	}
	n := 1
	for n < len(b) && n <= more && b[n] >= low && b[n] <= high {
		low, high = 0x80, 0xbf
		n++
	}
	return n
}
