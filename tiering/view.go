package tiering

import (
	"slices"

	"github.com/firnlog/firn/record"
)

// view is a partition's tiered part at one revision of its pointer. It is
// never changed once published; readers keep it as long as they like.
type view struct {
	rev    int64 // of the pointer in the metastore; 0: there is none
	ptr    Pointer
	loaded bool // entries of the manifest, if there is one, are in all
	// all holds the manifest's entries, if loaded, and then the tail. A later
	// view may share its array and be longer.
	all     []Entry
	live    int   // all[live:] are not wholly below ptr.Start
	bytes   int64 // of live runs
	objects int   // that live runs are in
	aborted bool  // some live run has aborted transactions
}

func newView(rev int64, ptr *Pointer, manifest []Entry, loaded bool) *view {
	if loaded && !ptr.Manifest.IsZero() {
		return makeView(rev, ptr, append(slices.Clip(manifest), ptr.Tail...), true)
	}
	return makeView(rev, ptr, ptr.Tail, ptr.Manifest.IsZero())
}

// makeView takes all as it is.
func makeView(rev int64, ptr *Pointer, all []Entry, loaded bool) *view {
	v := &view{rev: rev, ptr: *ptr, loaded: loaded, all: all}
	v.count()
	return v
}

func (v *view) count() {
	v.live, v.bytes, v.objects, v.aborted = 0, 0, 0, false
	for v.live < len(v.all) && v.all[v.live].End <= v.ptr.Start {
		v.live++
	}
	for i := v.live; i < len(v.all); i++ {
		e := &v.all[i]
		v.bytes += e.Length
		v.aborted = v.aborted || e.AbortedFrom >= 0
		// A partition's runs of one object are neighbours.
		if i == v.live || e.Object != v.all[i-1].Object {
			v.objects++
		}
	}
}

func (v *view) entries() []Entry { return v.all[v.live:] }

// contains says whether o is in the tiered part.
func (v *view) contains(o record.Offset) bool { return o >= v.ptr.Start && o < v.ptr.End }

// manifest gives the manifest's entries; only when loaded.
func (v *view) manifest() []Entry { return v.all[:len(v.all)-len(v.ptr.Tail)] }

// withEntries is the pointer that follows after fresh runs were uploaded:
// they are added to the tail, or replace everything when there is a gap
// before them (only DeleteRecords leaves one).
func (v *view) withEntries(fresh []Entry, logStart record.Offset) (next Pointer, all []Entry) {
	next = v.ptr
	next.Generation++
	next.End = fresh[len(fresh)-1].End
	next.Start = max(next.Start, min(logStart, next.End))
	if v.rev == 0 || fresh[0].Base > v.ptr.End {
		next.Manifest, next.ManifestEnd = ObjectID{}, 0
		next.Start = max(next.Start, fresh[0].Base)
		next.Tail = slices.Clone(fresh)
		return next, next.Tail
	}
	next.Tail = append(slices.Clip(v.ptr.Tail), fresh...)
	if v.ptr.Manifest.IsZero() {
		// No manifest: dead entries can go from the tail at once.
		for len(next.Tail) > 1 && next.Tail[0].End <= next.Start {
			next.Tail = next.Tail[1:]
		}
		return next, next.Tail
	}
	// In place: what lies behind len(v.all) is seen by no view, and a
	// partition has one writer at a time.
	return next, append(v.all, fresh...)
}

// withStart is the pointer that follows when records below start are gone.
func (v *view) withStart(start record.Offset) Pointer {
	next := v.ptr
	next.Generation++
	next.Start = min(max(start, v.ptr.Start), v.ptr.End)
	if next.Start == next.End {
		next.Manifest, next.ManifestEnd, next.Tail = ObjectID{}, 0, nil
		return next
	}
	if !next.Manifest.IsZero() && next.Start >= next.ManifestEnd {
		next.Manifest, next.ManifestEnd = ObjectID{}, 0
	}
	if next.Manifest.IsZero() {
		for len(next.Tail) > 0 && next.Tail[0].End <= next.Start {
			next.Tail = next.Tail[1:]
		}
	}
	return next
}

// dropped lists the objects that old refers to and new does not, the
// manifest included, each once.
func dropped(old, new *view) (ids []ObjectID) {
	if m := old.ptr.Manifest; !m.IsZero() && m != new.ptr.Manifest {
		ids = append(ids, m)
	}
	kept := new.entries()
	for _, e := range old.entries() {
		if len(kept) > 0 && e.End > kept[0].Base {
			break // the two are the same from here on
		}
		if len(kept) > 0 && e.Object == kept[0].Object || len(ids) > 0 && ids[len(ids)-1] == e.Object {
			continue
		}
		ids = append(ids, e.Object)
	}
	return ids
}
