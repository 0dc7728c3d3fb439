package record

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	kgzip "github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is how a batch's records are compressed, as its attributes say it.
type Codec int8

// The codecs of record batches (KIP-110 added zstd).
const (
	None   Codec = 0
	Gzip   Codec = 1
	Snappy Codec = 2
	LZ4    Codec = 3
	Zstd   Codec = 4
)

var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// String gives the codec's name as compression.type spells it.
func (c Codec) String() string {
	if c < 0 || int(c) >= len(codecNames) {
		return fmt.Sprintf("codec(%d)", int8(c))
	}
	return codecNames[c]
}

// ErrTooLarge says that decompressed records exceed the caller's limit.
var ErrTooLarge = fmt.Errorf("%w: records are larger decompressed than allowed", ErrCorrupt)

// xerial is how Java's snappy streams begin: 8 bytes of magic, then version
// and oldest compatible version, then blocks of a 4-byte length each.
var xerial = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

var zstdDecoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(128<<20))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}}

var (
	gzipReaders = sync.Pool{New: func() any { return new(kgzip.Reader) }}
	lz4Readers  = sync.Pool{New: func() any { return lz4.NewReader(nil) }}
)

// zstdEncoders keeps encoders, which are some MiB each, by level.
var zstdEncoders [zstd.SpeedBestCompression + 1]sync.Pool

// Decompress appends the decompressed src to dst. It allocates at most
// maxBytes (and a codec's window) whatever src claims, and fails with
// ErrTooLarge beyond that. For None, src itself is returned when dst is nil.
func Decompress(dst []byte, codec Codec, src []byte, maxBytes int) ([]byte, error) {
	switch codec {
	case None:
		if len(src) > maxBytes {
			return nil, ErrTooLarge
		}
		if dst == nil {
			return src, nil
		}
		return append(dst, src...), nil
	case Snappy:
		return unsnappy(dst, src, maxBytes)
	case Gzip:
		r := gzipReaders.Get().(*kgzip.Reader)
		defer gzipReaders.Put(r)
		if err := r.Reset(bytes.NewReader(src)); err != nil {
			return nil, corrupt(codec, err)
		}
		return readBounded(dst, codec, r, maxBytes)
	case LZ4:
		r := lz4Readers.Get().(*lz4.Reader)
		defer lz4Readers.Put(r)
		r.Reset(bytes.NewReader(src))
		return readBounded(dst, codec, r, maxBytes)
	case Zstd:
		d := zstdDecoders.Get().(*zstd.Decoder)
		defer zstdDecoders.Put(d)
		if err := d.Reset(bytes.NewReader(src)); err != nil {
			return nil, corrupt(codec, err)
		}
		out, err := readBounded(dst, codec, d, maxBytes)
		_ = d.Reset(nil) // lets go of src; nil cannot fail
		return out, err
	}
	return nil, fmt.Errorf("%w: unknown %v", ErrCorrupt, codec)
}

func corrupt(codec Codec, err error) error { return fmt.Errorf("%w: %v: %w", ErrCorrupt, codec, err) }

func readBounded(dst []byte, codec Codec, r io.Reader, maxBytes int) ([]byte, error) {
	buf := bytes.NewBuffer(dst)
	n, err := buf.ReadFrom(io.LimitReader(r, int64(maxBytes)+1))
	if err != nil {
		return nil, corrupt(codec, err)
	}
	if n > int64(maxBytes) {
		return nil, ErrTooLarge
	}
	return buf.Bytes(), nil
}

func unsnappy(dst, src []byte, maxBytes int) ([]byte, error) {
	if !bytes.HasPrefix(src, xerial) {
		return unsnappyBlock(dst, src, maxBytes)
	}
	if len(src) < 16 {
		return nil, fmt.Errorf("%w: snappy: header cut short", ErrCorrupt)
	}
	start := len(dst)
	for src = src[16:]; len(src) > 0; {
		if len(src) < 4 {
			return nil, fmt.Errorf("%w: snappy: block length cut short", ErrCorrupt)
		}
		n := int64(binary.BigEndian.Uint32(src))
		if src = src[4:]; n > int64(len(src)) {
			return nil, fmt.Errorf("%w: snappy: block of %d bytes in %d", ErrCorrupt, n, len(src))
		}
		var err error
		if dst, err = unsnappyBlock(dst, src[:n], maxBytes-(len(dst)-start)); err != nil {
			return nil, err
		}
		src = src[n:]
	}
	return dst, nil
}

func unsnappyBlock(dst, src []byte, maxBytes int) ([]byte, error) {
	n, err := s2.DecodedLen(src)
	if err != nil {
		return nil, corrupt(Snappy, err)
	}
	// A snappy element of three bytes gives at most 64; a claim beyond that is a lie.
	if n > maxBytes || n > len(src)*32 {
		return nil, ErrTooLarge
	}
	start := len(dst)
	dst = slices.Grow(dst, n)[:start+n]
	if _, err := s2.Decode(dst[start:], src); err != nil {
		return nil, corrupt(Snappy, err)
	}
	return dst, nil
}

// Compress appends src to dst, compressed. Level 0 is the codec's default;
// otherwise it is Kafka's level of that codec (gzip 1–9, lz4 1–17,
// zstd -131072–22), mapped to the nearest that the library has.
func Compress(dst []byte, codec Codec, level int, src []byte) ([]byte, error) {
	switch codec {
	case None:
		return append(dst, src...), nil
	case Snappy:
		dst = append(dst, xerial...)
		dst = append(dst, 0, 0, 0, 1, 0, 0, 0, 1)
		for len(src) > 0 {
			n := min(len(src), 32<<10)
			block := s2.EncodeSnappy(nil, src[:n])
			dst = binary.BigEndian.AppendUint32(dst, uint32(len(block)))
			dst = append(dst, block...)
			src = src[n:]
		}
		return dst, nil
	case Gzip:
		if level == 0 {
			level = gzip.DefaultCompression
		}
		buf := bytes.NewBuffer(dst)
		w, err := kgzip.NewWriterLevel(buf, level)
		if err != nil {
			return nil, err
		}
		return finish(buf, w, src)
	case LZ4:
		buf := bytes.NewBuffer(dst)
		w := lz4.NewWriter(buf)
		if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.BlockChecksumOption(false), lz4.ChecksumOption(false), lz4.CompressionLevelOption(lz4Level(level))); err != nil {
			return nil, err
		}
		return finish(buf, w, src)
	case Zstd:
		l := zstd.SpeedDefault
		if level != 0 {
			l = zstd.EncoderLevelFromZstd(level)
		}
		e, ok := zstdEncoders[l].Get().(*zstd.Encoder)
		if !ok {
			var err error
			if e, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(l)); err != nil {
				return nil, err
			}
		}
		defer zstdEncoders[l].Put(e)
		return e.EncodeAll(src, dst), nil
	}
	return nil, errors.New("record: unknown codec")
}

func finish(buf *bytes.Buffer, w io.WriteCloser, src []byte) ([]byte, error) {
	if _, err := w.Write(src); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func lz4Level(level int) lz4.CompressionLevel {
	if level <= 1 {
		return lz4.Fast
	}
	return lz4.CompressionLevel(1 << (8 + min((level+1)/2, 9)))
}
