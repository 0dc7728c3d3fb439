package objectstore

import (
	"context"
	"fmt"
	"io"
	"time"
)

// healedAfter is how many bytes in a row make a broken body's earlier breaks
// forgotten: a connection that keeps breaking but moves on is good enough.
const healedAfter = 256 << 10

func (s *retrier) GetRange(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, Fail(ctx, "get", key, err, err)
	}
	b := &retryBody{s: s, ctx: ctx, key: key, off: off, n: n}
	if err := b.openRetrying(nil); err != nil {
		return nil, err
	}
	return b, nil
}

// retryBody reads one range through as many bodies as it takes.
type retryBody struct {
	s    *retrier
	ctx  context.Context // the caller's
	key  string
	off  int64
	n    int64 // as asked until the first open, then the true length
	done int64 // bytes given to the caller

	cur      Body
	actx     context.Context // cur's; cancelled by the watch when cur stalls
	cancel   context.CancelCauseFunc
	watch    *time.Timer
	etag     string
	opened   bool
	failures int   // since healedAfter bytes went well
	well     int64 // bytes since the last failure
	err      error // final
}

func (b *retryBody) Len() int64   { return b.n }
func (b *retryBody) ETag() string { return b.etag }

func (b *retryBody) Close() error {
	if b.err == nil {
		b.err = fmt.Errorf("get %q: %w", b.key, io.ErrClosedPipe)
	}
	return b.drop()
}

func (b *retryBody) drop() error {
	if b.cur == nil {
		return nil
	}
	b.watch.Stop()
	err := b.cur.Close()
	b.cancel(nil)
	b.cur = nil
	return err
}

// open makes one attempt at the rest of the range.
func (b *retryBody) open() error {
	timeout := b.s.cfg.Timeout
	actx, cancel := context.WithCancelCause(b.ctx)
	t := time.AfterFunc(timeout, func() { cancel(fmt.Errorf("%w after %v", ErrTimeout, timeout)) })
	n := b.n
	if b.opened || n > 0 {
		n -= b.done
	}
	rc, err := b.s.Store.GetRange(actx, b.key, b.off+b.done, n)
	t.Stop()
	if err != nil {
		err = attemptError(b.ctx, actx, err)
		cancel(nil)
		return err
	}
	body, ok := rc.(Body)
	if !ok {
		if n < 0 {
			_ = rc.Close()
			cancel(nil)
			return fmt.Errorf("get %q: %w: %T does not tell its length", b.key, ErrInvalid, rc)
		}
		body = NewBody(rc, b.key, n, "")
	}
	if b.opened && (body.ETag() == "" || body.ETag() != b.etag) {
		_ = body.Close()
		cancel(nil)
		return fmt.Errorf("get %q: %w", b.key, ErrChanged)
	}
	if !b.opened {
		b.opened, b.etag, b.n = true, body.ETag(), body.Len()
	}
	stall := b.s.cfg.Stall
	b.cur, b.actx, b.cancel = body, actx, cancel
	b.watch = time.AfterFunc(stall, func() { cancel(fmt.Errorf("%w: no byte for %v", ErrTimeout, stall)) })
	b.watch.Stop()
	return nil
}

// openRetrying opens until it works; after a failure of reading, err is it.
func (b *retryBody) openRetrying(err error) error {
	for {
		if err != nil {
			b.failures++
			b.well = 0
			if !b.s.cfg.Retryable(err) {
				return err
			}
			if b.failures >= b.s.cfg.Attempts || !b.s.pause(b.ctx, b.failures-1) {
				return b.s.gaveUp(b.ctx, err, b.failures)
			}
		}
		if err = b.open(); err == nil {
			b.s.budget.success()
			return nil
		}
	}
}

func (b *retryBody) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if b.done == b.n {
			b.err = io.EOF
			return 0, io.EOF
		}
		b.watch.Reset(b.s.cfg.Stall)
		n, err := b.cur.Read(p)
		b.watch.Stop()
		b.done += int64(n)
		if b.well += int64(n); b.well >= healedAfter {
			b.failures = 0
		}
		if err == nil || n > 0 {
			// An error beside bytes comes again with the next Read, or is
			// met by its not going on.
			if n > 0 {
				return n, nil
			}
			continue
		}
		if err == io.EOF { // a Body ends early with ErrUnexpectedEOF: this one knows its length wrongly
			err = fmt.Errorf("get %q: %w at %d of %d bytes", b.key, io.ErrUnexpectedEOF, b.done, b.n)
		}
		err = attemptError(b.ctx, b.actx, err)
		_ = b.drop()
		if err = b.openRetrying(err); err != nil {
			b.err = err
			return 0, err
		}
	}
}
