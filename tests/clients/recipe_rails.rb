# Behind the settings of docs/clients.md, which take the place of the line RECIPE: stores through the cache that Rails
# makes of them, says "stored", waits for a line (its server is killed and started again meanwhile), and reads
# everything again.
require "logger"
require "active_support"
require "active_support/cache"

config = Struct.new(:cache_store).new
# RECIPE

cache = ActiveSupport::Cache.lookup_store(*config.cache_store)
cache.logger = Logger.new(File::NULL)
Dalli.logger = Logger.new(File::NULL)
$stdout.sync = true

# Again and again, as an application does that was asked by a user; the outcome and how often it failed. Rails has no
# error for a server that is away: a read misses, a write answers false.
def insist
  200.times do |failures|
    outcome = yield
    return outcome, failures if outcome
    sleep 0.05
  end
  raise "it fails for ever"
end

100.times { |n| insist { cache.write("key-#{n}", { "number" => n }, expires_in: 3600) } }
puts "stored"
$stdin.gets
failed = 0
100.times do |n|
  value, failures = insist { cache.read("key-#{n}") }
  raise "key-#{n} is #{value}" unless value == { "number" => n }
  failed += failures
end
raise "fetch computes what is there" unless cache.fetch("key-7") { nil } == { "number" => 7 }
cache.write("counter", 1, raw: true)
raise "the counter" unless cache.increment("counter") == 2
puts "rails #{failed}"
