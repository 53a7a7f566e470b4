// Behind the settings of docs/clients.md, which take the place of the line RECIPE: stores through the client, says
// "stored", waits for a line (its server is killed and started again meanwhile), and reads everything again.
package main

import (
	"bufio"
	"fmt"
	"os"
	"time"

	"github.com/bradfitz/gomemcache/memcache"
)

func connect() *memcache.Client {
	// RECIPE
	return cache
}

// Again and again, as an application does that was asked by a user; how often it failed.
func insist(action func() error) int {
	for failures := 0; ; failures++ {
		problem := action()
		if problem == nil {
			return failures
		}
		if problem == memcache.ErrCacheMiss || failures == 200 {
			fmt.Fprintln(os.Stderr, problem)
			os.Exit(1)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func main() {
	cache := connect()
	for n := 0; n < 100; n++ {
		item := &memcache.Item{Key: fmt.Sprintf("key-%d", n), Value: []byte(fmt.Sprintf("value-%d", n)), Expiration: 3600}
		insist(func() error { return cache.Set(item) })
	}
	fmt.Println("stored")
	bufio.NewReader(os.Stdin).ReadString('\n')
	failed := 0
	for n := 0; n < 100; n++ {
		var item *memcache.Item
		failed += insist(func() (problem error) {
			item, problem = cache.Get(fmt.Sprintf("key-%d", n))
			return
		})
		if string(item.Value) != fmt.Sprintf("value-%d", n) {
			fmt.Fprintln(os.Stderr, item.Key, "is", string(item.Value))
			os.Exit(1)
		}
	}
	cache.Set(&memcache.Item{Key: "counter", Value: []byte("1")})
	if value, problem := cache.Increment("counter", 1); problem != nil || value != 2 {
		fmt.Fprintln(os.Stderr, "the counter is", value, problem)
		os.Exit(1)
	}
	fmt.Println("go", failed)
}
