// Package faults decorates a Store with failures, for tests: errors before and
// after the work is done, delays, calls that hang until their context ends,
// bodies that end early, break off or have a bit flipped. What fails, and when,
// is scripted by rules; chance comes from a seed, so that a run can be had
// again.
package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/firnlog/firn/objectstore"
)

// ErrInjected is wrapped by every error that a rule without its own makes.
var ErrInjected = errors.New("injected fault")

// Op is one of the store's calls.
type Op string

// The calls that rules can name.
const (
	Put    Op = "put"
	Swap   Op = "swap"
	Get    Op = "get"
	Head   Op = "head"
	List   Op = "list"
	Delete Op = "delete"
)

// Effect is what happens to a call that a rule picks.
type Effect int

const (
	// Fail returns the error without doing anything.
	Fail Effect = iota
	// FailAfter does the work, then returns the error: the answer was lost.
	// Of a Get it is the same as Fail.
	FailAfter
	// Hang waits until the call's context ends and returns its error.
	Hang
	// HangAfter does the work, then waits as Hang does.
	HangAfter
	// Delay waits for Rule.Delay, then goes on as if nothing was.
	Delay
	// ShortBody ends a Get's body with io.ErrUnexpectedEOF after Rule.Bytes.
	ShortBody
	// BreakBody ends a Get's body with the error after Rule.Bytes.
	BreakBody
	// StallBody makes a Get's body wait for its context after Rule.Bytes.
	StallBody
	// FlipBit inverts the lowest bit of the byte at Rule.Bytes of a Get's
	// body, and says nothing.
	FlipBit
)

// Rule picks calls and says what happens to them. The first rule of the list
// that picks a call is the one that counts.
type Rule struct {
	Ops    []Op    // none: every call
	Prefix string  // of the key, or of List's prefix
	Skip   int     // let this many calls that would be picked pass first
	Times  int     // pick this many, then no more; 0: no end
	Chance float64 // of those, pick each with this probability; 0: all
	Effect Effect
	Err    error         // of Fail, FailAfter, BreakBody; nil: ErrInjected and objectstore.ErrUnavailable
	Delay  time.Duration // of Delay
	Bytes  int64         // of the body effects
}

// Store injects faults into the calls of the Store below.
type Store struct {
	objectstore.Store
	mu    sync.Mutex // what is below
	rng   *rand.Rand
	rules []*rule
	hits  int
	calls map[Op]int
}

type rule struct {
	Rule
	seen, hit int
}

var _ objectstore.Store = (*Store)(nil)

// New decorates s. Rules can be set later, too.
func New(s objectstore.Store, seed uint64, rules ...Rule) *Store {
	f := &Store{Store: s, rng: rand.New(rand.NewPCG(seed, 0x6669726e)), calls: map[Op]int{}}
	f.Set(rules...)
	return f
}

// Unwrap gives the decorated Store.
func (f *Store) Unwrap() objectstore.Store { return f.Store }

// Set replaces the rules; none: the store is well again.
func (f *Store) Set(rules ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
	for _, r := range rules {
		f.rules = append(f.rules, &rule{Rule: r})
	}
}

// Hits says how often a rule picked a call since New: a test that expects
// faults checks that there were any.
func (f *Store) Hits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

// Calls says how many calls of op there were since New, failed ones included.
func (f *Store) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *Store) pick(op Op, key string) *Rule {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[op]++
	for _, r := range f.rules {
		if !r.matches(op, key) || r.Times > 0 && r.hit >= r.Times {
			continue
		}
		if r.seen++; r.seen <= r.Skip || r.Chance > 0 && f.rng.Float64() >= r.Chance {
			continue
		}
		r.hit++
		f.hits++
		got := r.Rule
		if got.Err == nil {
			got.Err = fmt.Errorf("%s %q: %w: %w", op, key, objectstore.ErrUnavailable, ErrInjected)
		}
		return &got
	}
	return nil
}

func (r *rule) matches(op Op, key string) bool {
	if !strings.HasPrefix(key, r.Prefix) {
		return false
	}
	if len(r.Ops) == 0 {
		return true
	}
	for _, o := range r.Ops {
		if o == op {
			return true
		}
	}
	return false
}

// before does what comes before the work; an error ends the call.
func (r *Rule) before(ctx context.Context) error {
	if r == nil {
		return nil
	}
	switch r.Effect {
	case Fail:
		return r.Err
	case Hang:
		<-ctx.Done()
		return ctx.Err()
	case Delay:
		t := time.NewTimer(r.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// after does what comes after the work.
func (r *Rule) after(ctx context.Context, err error) error {
	if r == nil || err != nil {
		return err
	}
	switch r.Effect {
	case FailAfter:
		return r.Err
	case HangAfter:
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

func one[T any](ctx context.Context, r *Rule, work func() (T, error)) (T, error) {
	var zero T
	if err := r.before(ctx); err != nil {
		return zero, err
	}
	v, err := work()
	if err = r.after(ctx, err); err != nil {
		return zero, err
	}
	return v, nil
}

// Put may fail, before or after it was done.
func (f *Store) Put(ctx context.Context, key string, r io.ReadSeeker, size int64) (objectstore.Object, error) {
	return one(ctx, f.pick(Put, key), func() (objectstore.Object, error) { return f.Store.Put(ctx, key, r, size) })
}

// Swap may fail, before or after it was done.
func (f *Store) Swap(ctx context.Context, key string, data []byte, etag string) (objectstore.Object, error) {
	return one(ctx, f.pick(Swap, key), func() (objectstore.Object, error) { return f.Store.Swap(ctx, key, data, etag) })
}

// Head may fail.
func (f *Store) Head(ctx context.Context, key string) (objectstore.Object, error) {
	return one(ctx, f.pick(Head, key), func() (objectstore.Object, error) { return f.Store.Head(ctx, key) })
}

// Delete may fail, before or after it was done.
func (f *Store) Delete(ctx context.Context, key string) error {
	_, err := one(ctx, f.pick(Delete, key), func() (struct{}, error) { return struct{}{}, f.Store.Delete(ctx, key) })
	return err
}

// List may fail before its first object; Fail and Hang with Bytes > 0 come
// after that many objects.
func (f *Store) List(ctx context.Context, prefix, after string) iter.Seq2[objectstore.Object, error] {
	return func(yield func(objectstore.Object, error) bool) {
		r := f.pick(List, prefix)
		late := r != nil && r.Bytes > 0
		if !late {
			if err := r.before(ctx); err != nil {
				yield(objectstore.Object{}, err)
				return
			}
		}
		n := int64(0)
		for obj, err := range f.Store.List(ctx, prefix, after) {
			if late && n == r.Bytes {
				if err := r.before(ctx); err != nil {
					yield(objectstore.Object{}, err)
					return
				}
			}
			n++
			if !yield(obj, err) {
				return
			}
		}
	}
}

// GetRange may fail, and so may its body.
func (f *Store) GetRange(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	r := f.pick(Get, key)
	if err := r.before(ctx); err != nil {
		return nil, err
	}
	rc, err := f.Store.GetRange(ctx, key, off, n)
	if err != nil || r == nil {
		return rc, err
	}
	if err := r.after(ctx, nil); err != nil {
		_ = rc.Close()
		return nil, err
	}
	switch r.Effect {
	case ShortBody, BreakBody, StallBody, FlipBit:
		b := &body{ReadCloser: rc, ctx: ctx, r: r}
		if in, ok := rc.(objectstore.Body); ok {
			return &fullBody{b, in}, nil
		}
		return b, nil
	}
	return rc, nil
}

type body struct {
	io.ReadCloser
	ctx context.Context
	r   *Rule
	pos int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.r.Effect != FlipBit {
		if b.pos >= b.r.Bytes {
			switch b.r.Effect {
			case ShortBody:
				return 0, io.ErrUnexpectedEOF
			case StallBody:
				<-b.ctx.Done()
				return 0, b.ctx.Err()
			}
			return 0, b.r.Err
		}
		p = p[:min(int64(len(p)), b.r.Bytes-b.pos)]
	}
	n, err := b.ReadCloser.Read(p)
	if at := b.r.Bytes - b.pos; b.r.Effect == FlipBit && at >= 0 && at < int64(n) {
		p[at] ^= 1
	}
	b.pos += int64(n)
	return n, err
}

type fullBody struct {
	*body
	in objectstore.Body
}

func (b *fullBody) Len() int64   { return b.in.Len() }
func (b *fullBody) ETag() string { return b.in.ETag() }
