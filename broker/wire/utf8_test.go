package wire

import (
	"encoding/hex"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// The answers are those of a running Kafka: test/kafkadiff has them as
// basics/utf8-group-ids.
func TestReplaceInvalid(t *testing.T) {
	for in, want := range map[string]string{
		"":             "",
		"6b64":         "kd",
		"ff":           "\uFFFD",
		"61c362":       "a\uFFFDb",
		"e282":         "\uFFFD",
		"eda080":       "\uFFFD",
		"edb080eda080": "\uFFFD\uFFFD",
		"eda041":       "\uFFFDA",
		"c080":         "\uFFFD\uFFFD",
		"f09f92":       "\uFFFD",
		"f09f9241":     "\uFFFDA",
		"f5808080":     "\uFFFD\uFFFD\uFFFD\uFFFD",
		"8080":         "\uFFFD\uFFFD",
		"e08080":       "\uFFFD\uFFFD\uFFFD",
		"f0808041":     "\uFFFD\uFFFD\uFFFDA",
		"f4908080":     "\uFFFD\uFFFD\uFFFD\uFFFD",
		"efbfbdff":     "\uFFFD\uFFFD",
	} {
		b, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := replaceInvalid(b); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

// What is UTF-8 stays, what is not becomes so, and no byte of a valid rune is
// lost beside an invalid piece.
func TestReplaceInvalidAlwaysUTF8(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		before, after := rapid.String().Draw(t, "before"), rapid.StringN(1, -1, -1).Draw(t, "after")
		noise := rapid.SliceOfN(rapid.ByteRange(0x80, 0xff), 0, 20).Draw(t, "noise")
		got := replaceInvalid([]byte(before + string(noise) + "|" + after))
		if !utf8.ValidString(got) || !strings.HasPrefix(got, before) || !strings.HasSuffix(got, "|"+after) {
			t.Fatalf("%q", got)
		}
		if len(noise) == 0 && got != before+"|"+after {
			t.Fatalf("%q is UTF-8 and became %q", before+"|"+after, got)
		}
	})
}

func TestTextTooLongOnceReplaced(t *testing.T) {
	for n, ok := range map[int]bool{0: true, 1: true, 10_922: true, 10_923: false, 32_767: false} {
		r := newReader(append([]byte{byte(n >> 8), byte(n)}, strings.Repeat("\xff", n)...))
		if s := r.string(false); (r.err == nil) != ok || ok && len(s) != 3*n {
			t.Errorf("%d bytes: %d, %v", n, len(s), r.err)
		}
	}
}
