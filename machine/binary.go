package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/firnlog/firn/objectstore"
)

const (
	fetchTime  = 10 * time.Minute
	tryTime    = 30 * time.Second // what a new binary may take to say its version
	maxBinary  = 1 << 30          // bytes; real ones have 60 MB
	stagedName = ".firn-staged"
	beforeName = "firn.before" // the binary of before, for people
)

// fetcher gets binaries.
type fetcher struct {
	store string // the machine file's: where objects of s3:// and gs:// URLs are asked for
	open  func(ctx context.Context, url string) (objectstore.Store, error)
	http  *http.Client
	run   Run
	dir   string // of the binary in place
}

// stage gets a binary, holds it to its SHA-256, and tries whether it runs here.
// It gives its path, beside the one in place. What fails leaves nothing.
func (f *fetcher) stage(ctx context.Context, b Binary) (err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	staged := filepath.Join(f.dir, stagedName)
	tmp, err := os.OpenFile(staged+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("binary %s: %w", b.URL, err), tmp.Close(), os.Remove(tmp.Name()))
		}
	}()
	body, err := f.get(ctx, b.URL)
	if err != nil {
		return err
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, h), io.LimitReader(body, maxBinary+1))
	err = errors.Join(err, body.Close())
	switch got := hex.EncodeToString(h.Sum(nil)); {
	case err != nil:
		return err
	case n > maxBinary:
		return fmt.Errorf("it has more than %d bytes: it is something else", maxBinary)
	case got != b.SHA256:
		return fmt.Errorf("its SHA-256 is %s and not %s, as the fleet file says: correct the one that is wrong", got, b.SHA256)
	}
	if err := errors.Join(tmp.Chmod(0o755), tmp.Sync()); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(ctx, tryTime)
	defer cancel()
	if _, err := f.run(ctx, tmp.Name(), "version"); err != nil {
		err = fmt.Errorf("it does not run on this machine (another architecture?): %w", err)
		return errors.Join(fmt.Errorf("binary %s: %w", b.URL, err), os.Remove(tmp.Name()))
	}
	return os.Rename(tmp.Name(), staged)
}

// install puts the staged binary in place, as a whole, and keeps the one of
// before beside it. A process that runs keeps what it was started from.
func (f *fetcher) install() error {
	in := filepath.Join(f.dir, filepath.Base(BinaryPath))
	before := filepath.Join(f.dir, beforeName)
	if err := os.Remove(before); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.Link(in, before); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Rename(filepath.Join(f.dir, stagedName), in)
}

func (f *fetcher) get(ctx context.Context, raw string) (io.ReadCloser, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "https" {
		return f.download(ctx, raw)
	}
	base, err := objectstore.ParseURL(f.store)
	if err != nil {
		return nil, err
	}
	if u.Scheme != base.Scheme {
		return nil, fmt.Errorf("it is to be fetched from %s://, and this machine's store is %s://: give an object of that, or https://", u.Scheme, base.Scheme)
	}
	base.Bucket, base.Prefix = u.Host, ""
	store, err := f.open(ctx, base.String())
	if err != nil {
		return nil, err
	}
	body, err := store.GetRange(ctx, strings.TrimPrefix(u.Path, "/"), 0, -1)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return &object{body, store}, nil
}

// object is an object's body with the store that was opened for it.
type object struct {
	io.ReadCloser
	store objectstore.Store
}

func (o *object) Close() error { return errors.Join(o.ReadCloser.Close(), o.store.Close()) }

func (f *fetcher) download(ctx context.Context, raw string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, raw, nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("the server answers %s", resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}
