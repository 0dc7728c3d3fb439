package objectstore

import (
	"fmt"
	"io"
)

// Body is what GetRange returns: besides reading, it says which object the
// bytes are of and how many there are, so that a reader that starts over in
// the middle can tell that it still reads the same object.
type Body interface {
	io.ReadCloser
	Len() int64   // bytes of the whole range, from its start
	ETag() string // of the object that is read
}

// NewBody gives exactly n bytes of rc: what rc has beyond is not read, and an
// rc that ends early ends in io.ErrUnexpectedEOF. key is for its errors.
func NewBody(rc io.ReadCloser, key string, n int64, etag string) Body {
	return &body{rc: rc, key: key, n: n, left: n, etag: etag}
}

type body struct {
	rc      io.ReadCloser
	key     string
	n, left int64
	etag    string
}

func (b *body) Len() int64   { return b.n }
func (b *body) ETag() string { return b.etag }
func (b *body) Close() error { return b.rc.Close() }

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.rc.Read(p)
	b.left -= int64(n)
	switch {
	case b.left == 0:
		// Whole: how the connection ended no longer matters.
		return n, nil
	case err == io.EOF:
		return n, fmt.Errorf("get %q: %w: %d of %d bytes missing", b.key, io.ErrUnexpectedEOF, b.left, b.n)
	case err != nil:
		return n, fmt.Errorf("get %q: after %d of %d bytes: %w", b.key, b.n-b.left, b.n, err)
	}
	return n, nil
}
