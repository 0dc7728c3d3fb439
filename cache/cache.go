// Package cache keeps byte ranges of immutable objects on local disk, bounded
// in bytes. It knows keys and ranges, never segments or topics.
package cache
